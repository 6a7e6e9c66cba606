"""The VAE's bound, term by term, its sample and its samples."""

import math

import pytest
import torch

from models.methods import build_method
from models.methods.generative.params import VAEParams
from models.methods.losses import gaussian_kl, gaussian_nll
from models.training.randomness import seeded
from tests.models.easy_images import small_encoder
from tests.models.small_images import images, noise, output


def test_divergence_is_that_of_torch_and_nothing_from_the_prior_itself():
    mean, log_variance = noise(5, 7, seed=1) * 4 - 2, noise(5, 7, seed=2) * 4 - 2
    posterior = torch.distributions.Normal(mean, (log_variance / 2).exp())
    prior = torch.distributions.Normal(torch.zeros(5, 7), torch.ones(5, 7))
    theirs = torch.distributions.kl_divergence(posterior, prior).sum(1)
    assert torch.allclose(gaussian_kl(mean, log_variance), theirs, atol=1e-5)
    assert (gaussian_kl(torch.zeros(3, 4), torch.zeros(3, 4)) == 0).all()
    # N(1, 1) is half a nat away in each dimension.
    assert torch.allclose(gaussian_kl(torch.ones(3, 4), torch.zeros(3, 4)), torch.full((3,), 2.0))


def test_divergence_and_density_have_the_right_slopes():
    mean, log_variance = (noise(3, 4, seed=s).double().requires_grad_() for s in (0, 1))
    assert torch.autograd.gradcheck(gaussian_kl, (mean, log_variance))
    error, scale = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in (0.3, -1.0))
    assert torch.autograd.gradcheck(gaussian_nll, (error, scale))


def test_density_is_that_of_torch():
    x, mean, log_variance = noise(6, 9), noise(6, 9, seed=1), torch.tensor(-1.5)
    theirs = torch.distributions.Normal(mean, (log_variance / 2).exp()).log_prob(x).mean()
    ours = gaussian_nll((x - mean).square().mean(), log_variance)
    assert ours.item() == pytest.approx(-theirs.item(), rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 1.0, 4.0])
def test_loss_of_the_vae_is_the_bound_in_plain_loops(beta):
    method = build_method(VAEParams(latents=3, beta=beta), small_encoder(), seed=0).eval()
    x = images(4)
    found = output(method, x, seed=5)
    with torch.no_grad():
        moments = method.posterior(method.encoder(x))
        mean, log_variance = moments[:, :3], moments[:, 3:]
        with seeded(5):
            epsilon = torch.randn(4, 3)
        decoded = method.decoder(mean + (log_variance / 2).exp() * epsilon, (16, 16))
    sigma2 = math.exp(method.log_variance.item())
    log_likelihood = divergence = 0.0
    for n in range(4):
        for i, value in enumerate(x[n].flatten().tolist()):
            distance = (value - decoded[n].flatten()[i].item()) ** 2
            log_likelihood -= 0.5 * (math.log(2 * math.pi * sigma2) + distance / sigma2) / 4
        for m, v in zip(mean[n].tolist(), log_variance[n].tolist(), strict=True):
            divergence += 0.5 * (math.exp(v) + m * m - 1 - v) / 4
    bound = (log_likelihood - beta * divergence) / 256
    assert found["loss"].item() == pytest.approx(-bound, rel=1e-4)
    assert found["metrics"]["kl"].item() == pytest.approx(divergence, rel=1e-4)
    elbo = (log_likelihood - divergence) / 256
    assert found["metrics"]["elbo_per_dim"].item() == pytest.approx(elbo, rel=1e-4)


def test_gradient_goes_through_the_sample_as_the_reparameterisation_says():
    method = build_method(VAEParams(latents=3, beta=0.0), small_encoder(), seed=0).eval()
    sampled, moments = [], []

    def keep(into):
        def hook(_, inputs, result):
            tensor = result if into is moments else inputs[0]
            tensor.retain_grad()
            into.append(tensor)

        return hook

    method.posterior.register_forward_hook(keep(moments))
    method.decoder.register_forward_hook(keep(sampled))
    output(method, images(4), seed=5)["loss"].backward()
    with seeded(5):
        epsilon = torch.randn(4, 3)
    mean, log_variance = moments[0].detach().chunk(2, dim=1)
    slope = sampled[0].grad
    assert slope.abs().min() > 0
    assert torch.allclose(sampled[0], mean + (log_variance / 2).exp() * epsilon, atol=1e-6)
    # dz/dmu = 1 and dz/dlog sigma^2 = sigma eps / 2.
    assert torch.allclose(moments[0].grad[:, :3], slope)
    by_scale = slope * (log_variance / 2).exp() * epsilon / 2
    assert torch.allclose(moments[0].grad[:, 3:], by_scale, rtol=1e-4)


def test_latents_are_active_where_their_means_differ_between_images():
    method = build_method(VAEParams(latents=5), small_encoder(), seed=0).eval()
    torch.nn.init.zeros_(method.posterior.weight)
    assert output(method, images())["metrics"]["active_latents"] == 0
    method.posterior.weight.data[1:3] = 10.0
    assert output(method, images())["metrics"]["active_latents"] == 2


def test_samples_of_a_vae_do_not_depend_on_the_images():
    method = build_method(VAEParams(), small_encoder(), seed=0).eval()
    drawn = []
    for seed in (0, 1):
        with torch.no_grad(), seeded("samples"):
            drawn.append(method.pictures(images(seed=seed)))
    assert torch.equal(drawn[0]["drawn from the prior"], drawn[1]["drawn from the prior"])
    assert not torch.equal(drawn[0]["rebuilt"], drawn[1]["rebuilt"])


# Inpainting.
