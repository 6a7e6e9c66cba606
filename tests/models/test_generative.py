"""Methods that predict the image itself: bounds, targets, holes, colours, the order of pixels."""

import math

import pytest
import torch
import torch.nn.functional as F

from models.decoders import Decoder
from models.errors import ModelError
from models.losses import gaussian_kl, gaussian_nll, psnr
from models.methods import build_method
from models.methods.colorization import chroma, luma, to_rgb
from models.methods.params import (
    AutoencoderParams,
    ColorizationParams,
    DenoisingAutoencoderParams,
    InpaintingParams,
    PixelCNNParams,
    VAEParams,
)
from models.methods.pixelcnn import PixelDecoder
from models.optimizers import build_optimizer, decay_groups
from models.randomness import seeded
from tests.models.easy_images import easy_images, plain_augment, small_encoder


def images(count=8, channels=1, seed=0):
    return plain_augment(easy_images(count, channels=channels, seed=seed)[0], seed)


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def output(method, x, seed=0):
    with seeded(seed):
        return method.training_step({"views": [x], "index": torch.arange(len(x))})


def train(method, x, steps, lr=3e-3):
    optimizer = build_optimizer("adamw", decay_groups(method, lr, 0.0))
    for number in range(steps):
        loss = output(method, x, number)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item()


@pytest.mark.parametrize("size", [(16, 16), (20, 20), (17, 23), (5, 40), (1, 1)])
@pytest.mark.parametrize("built_for", [8, 16, 28, 64])
def test_decoder_makes_images_of_any_size(built_for, size):
    decoder = Decoder(12, 3, built_for, 4).eval()
    made = decoder(noise(2, 12), size)
    assert made.shape == (2, 3, *size)
    assert ((made > 0) & (made < 1)).all()


def test_fresh_decoder_has_no_grid_in_its_pictures():
    made = Decoder(12, 2, 28, 4).eval()(noise(2, 12), (28, 28))
    blocks = made.unflatten(2, (14, 2)).unflatten(4, (14, 2))
    assert torch.allclose(blocks, blocks[:, :, :, :1, :, :1].expand_as(blocks))
    assert blocks[0, 1, :, 0, :, 0].std() > 1e-4


def test_every_pixel_of_a_decoded_image_depends_on_the_vector():
    vector = noise(1, 12).requires_grad_()
    made = Decoder(12, 1, 28, 16).eval()(vector, (28, 28))
    for pixel in made.flatten()[::37]:
        (slope,) = torch.autograd.grad(pixel, vector, retain_graph=True)
        assert (slope != 0).any()


def test_psnr_is_that_of_known_errors():
    assert psnr(torch.tensor(0.01)).item() == pytest.approx(20)
    assert psnr(torch.tensor(1.0)).item() == pytest.approx(0)
    assert torch.isfinite(psnr(torch.tensor(0.0)))


# Autoencoders.


@pytest.mark.parametrize(
    "params", [AutoencoderParams(), DenoisingAutoencoderParams(), VAEParams()], ids=lambda p: p.name
)
def test_autoencoders_learn_to_rebuild(params):
    method, x = build_method(params, small_encoder(), seed=0), images(16)
    before = output(method, x)["metrics"]["psnr"]
    train(method, x, 50)
    after = output(method, x)["metrics"]["psnr"]
    assert after > before + 3
    method.eval()
    with torch.no_grad(), seeded(0):
        rebuilt = method.pictures(x)["rebuilt"]
    mean = ((x - x.mean(0)) ** 2).mean()
    assert ((x - rebuilt) ** 2).mean() < mean / 2


def test_autoencoder_rebuilds_from_its_code_alone():
    method, x = build_method(AutoencoderParams(code=3), small_encoder(), seed=0).eval(), images()
    seen = []
    method.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    loss = output(method, x)["loss"]
    (code,) = seen
    assert code.shape == (8, 3)
    difference = x - method.decoder(method.code(method.encoder(x)), x.shape[2:])
    assert loss.item() == pytest.approx(difference.square().mean().item(), rel=1e-5)


def test_denoising_autoencoder_sees_the_corrupted_image_and_aims_at_the_clean_one():
    method = build_method(DenoisingAutoencoderParams(masked=0.5), small_encoder(), seed=0).eval()
    x = images() * 0.9 + 0.1
    seen, made = [], []
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.decoder.register_forward_hook(lambda _, __, result: made.append(result))
    found = output(method, x)
    gone = seen[0] == 0
    assert 0.45 < gone.float().mean() < 0.55
    assert torch.equal(seen[0][~gone], x[~gone])
    assert found["loss"].item() == pytest.approx((x - made[0]).square().mean().item(), rel=1e-6)
    noisy = -10 * math.log10((x - seen[0]).square().mean())
    assert found["metrics"]["psnr_corrupted"].item() == pytest.approx(noisy, rel=1e-5)


# VAE.


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


@pytest.mark.parametrize("region", ["blocks", "centre"])
def test_inpainting_never_sees_what_it_must_fill_in_and_is_judged_by_it_alone(region):
    method = build_method(InpaintingParams(region=region), small_encoder(), seed=0).eval()
    x = images(4)
    with seeded(3):
        removed = method.draw_holes(x)
    seen, made = [], []
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.decoder.register_forward_hook(lambda _, __, result: made.append(result))
    given = x.clone().requires_grad_()
    found = output(method, given, seed=3)
    whole = removed.expand_as(x)
    assert torch.allclose(seen[0][whole], method.encoder.mean.flatten())
    assert torch.equal(seen[0][~whole], x[~whole])
    (slope,) = torch.autograd.grad(made[0].square().sum(), given, retain_graph=True)
    assert (slope[whole] == 0).all() and (slope[~whole] != 0).any()
    total, count = 0.0, 0
    for index in whole.nonzero().tolist():
        total += (x[tuple(index)] - made[0][tuple(index)]).item() ** 2
        count += 1
    assert found["loss"].item() == pytest.approx(total / count, rel=1e-4)
    (slope,) = torch.autograd.grad(found["loss"], made[0])
    assert (slope[~whole] == 0).all() and (slope[whole] != 0).all()


def test_centre_is_a_quarter_of_the_image_in_its_middle():
    params = InpaintingParams(region="centre")
    holes = build_method(params, small_encoder(), seed=0).draw_holes(torch.zeros(2, 1, 16, 16))
    assert holes.sum() == 2 * 64 and holes[:, :, 4:12, 4:12].all()


def test_blocks_are_whole_differ_between_images_and_reach_every_place():
    method = build_method(InpaintingParams(blocks=1), small_encoder(), seed=0)
    with seeded(0):
        holes = method.draw_holes(torch.zeros(400, 1, 16, 16))[:, 0]
    assert (holes.sum((1, 2)) == 64).all()
    rows, columns = holes.any(2), holes.any(1)
    assert torch.equal(holes, rows.unsqueeze(2) & columns.unsqueeze(1))
    starts = {
        (int(r.float().argmax()), int(c.float().argmax()))
        for r, c in zip(rows, columns, strict=True)
    }
    assert {r for r, _ in starts} == {c for _, c in starts} == set(range(9))
    assert len(starts) > 70
    many = build_method(InpaintingParams(blocks=4), small_encoder(), seed=0)
    with seeded(0):
        share = many.draw_holes(torch.zeros(400, 1, 16, 16)).float().mean((1, 2, 3))
    assert share.max() <= 0.25 and share.min() >= 1 / 16 and share.mean() > 0.15


def test_what_inpainting_explains_is_nothing_for_the_mean_colour():
    method = build_method(InpaintingParams(), small_encoder(), seed=0).eval()
    torch.nn.init.zeros_(method.decoder.pixels.weight)
    method.decoder.pixels.bias.data.fill_(math.log(0.4 / 0.6))  # the encoder's mean
    assert output(method, images())["metrics"]["masked_explained"].abs() < 1e-5


# Colorization.


def test_colours_are_those_of_bt601_in_plain_loops():
    x = noise(2, 3, 4, 4)
    for n in range(2):
        for i in range(4):
            for j in range(4):
                red, green, blue = x[n, :, i, j].tolist()
                y = 0.299 * red + 0.587 * green + 0.114 * blue
                cb = -0.168736 * red - 0.331264 * green + 0.5 * blue
                cr = 0.5 * red - 0.418688 * green - 0.081312 * blue
                assert luma(x)[n, 0, i, j].item() == pytest.approx(y, abs=1e-5)
                assert chroma(x)[n, :, i, j].tolist() == pytest.approx([cb, cr], abs=1e-5)
    assert torch.allclose(to_rgb(luma(x), chroma(x)), x, atol=1e-5)


def test_classes_are_the_nearest_colours_of_each_quarter_in_plain_loops():
    method = build_method(ColorizationParams(bins=5), small_encoder(3), seed=0)
    x = noise(2, 3, 16, 16)
    x[:, :, :, 8:] = torch.tensor([0.9, 0.1, 0.2]).view(3, 1, 1)
    found, colours = method.classes(x), method.colours()
    for n in range(2):
        for i in range(4):
            for j in range(4):
                mean = chroma(x[n : n + 1, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]).mean((2, 3))
                distances = [(mean[0] - colour).square().sum().item() for colour in colours]
                assert found[n, i, j] == min(range(25), key=distances.__getitem__)


def test_grey_is_a_class_of_its_own_without_colour():
    method = build_method(ColorizationParams(), small_encoder(3), seed=0)
    grey = noise(1, 1, 16, 16).expand(-1, 3, -1, -1)
    assert method.colours()[method.classes(grey)].abs().max() < 1e-6


def test_colorization_sees_no_colour():
    method = build_method(ColorizationParams(), small_encoder(3), seed=0).eval()
    x = images(4, channels=3) * 0.5 + 0.25
    repainted = to_rgb(luma(x), (noise(4, 2, 1, 1) - 0.5) * 0.1)
    assert (x - repainted).abs().max() > 0.05
    assert torch.allclose(luma(x), luma(repainted), atol=1e-6)
    assert torch.allclose(method.scores(x), method.scores(repainted), atol=1e-4)
    seen = []
    method.encoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    method.scores(x)
    assert chroma(seen[0]).abs().max() < 1e-6


def test_rare_colours_weigh_more_and_the_mean_weight_is_one():
    method = build_method(ColorizationParams(bins=3), small_encoder(3), seed=0)
    method.frequency.copy_(torch.tensor([0.9, 0.1, 0, 0, 0, 0, 0, 0, 0]))
    weights = method.weights()
    plain = [1 / (0.5 * p + 0.5 / 9) for p in method.frequency.tolist()]
    scale = sum(p * w for p, w in zip(method.frequency.tolist(), plain, strict=True))
    assert weights.tolist() == pytest.approx([w / scale for w in plain], rel=1e-5)
    assert (method.frequency * weights).sum().item() == pytest.approx(1)
    assert weights[0] < weights[1] < weights[2]


def test_loss_of_colorization_weighs_each_place_by_its_colour_in_plain_loops():
    method = build_method(ColorizationParams(bins=3), small_encoder(3), seed=0).eval()
    x = noise(2, 3, 16, 16)
    x[0] *= torch.tensor([1.0, 0.2, 0.1]).view(3, 1, 1)
    found = output(method, x)
    scores, classes, weights = method.scores(x), method.classes(x), method.weights()
    total = 0.0
    for n in range(2):
        for i in range(4):
            for j in range(4):
                true = classes[n, i, j]
                logits = scores[n, :, i, j].tolist()
                log_sum = math.log(sum(math.exp(s) for s in logits))
                total += weights[true].item() * (log_sum - logits[true]) / 32
    assert found["loss"].item() == pytest.approx(total, rel=1e-4)
    # It has learned from this batch how frequent colours are.
    counts = torch.bincount(classes.flatten(), minlength=9) / 32
    assert torch.allclose(method.frequency, 0.99 / 9 + 0.01 * counts)


def test_colours_that_are_certain_come_back_in_the_picture():
    method = build_method(ColorizationParams(), small_encoder(3), seed=0).eval()
    x = images(4, channels=3) * 0.1 + 0.4
    red = torch.tensor([0.0, 0.2])
    certain = (method.colours() - red).square().sum(1).argmin()
    torch.nn.init.zeros_(method.head[3].weight)
    torch.nn.init.zeros_(method.head[3].bias)
    method.head[3].bias.data[certain] = 50.0
    rows = method.pictures(x)
    expected = to_rgb(luma(x), method.colours()[certain].view(1, 2, 1, 1))
    assert torch.allclose(rows["coloured"], expected, atol=1e-5)
    assert chroma(rows["grey"]).abs().max() < 1e-6


def test_colorization_learns_which_shape_has_which_colour():
    x, labels = easy_images(32)
    x = plain_augment(x, 0).expand(-1, 3, -1, -1) * 0.6
    tint = torch.tensor([[1.6, 0.8, 0.8], [0.8, 1.6, 0.8], [0.8, 0.8, 1.6], [1.4, 1.4, 0.5]])
    x = (x * tint[labels][:, :, None, None]).clamp(0, 1)
    method = build_method(ColorizationParams(), small_encoder(3), seed=0)
    train(method, x, 60)
    metrics = output(method, x)["metrics"]
    assert metrics["colour_accuracy"] > metrics["commonest_colour"] + 0.2


@pytest.mark.parametrize("channels", [1, 5])
def test_colorization_of_images_without_colours_is_refused(channels):
    with pytest.raises(ModelError, match="set data.channels to 3"):
        build_method(ColorizationParams(), small_encoder(channels), seed=0)


# PixelCNN.


def pixel_decoder(channels=2, layers=2, levels=4):
    torch.manual_seed(0)
    return PixelDecoder(channels, levels, 8, layers, 5).double().eval()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_value_depends_on_all_before_it_within_reach_and_on_none_after(channels):
    decoder, size = pixel_decoder(channels), 12
    values = noise(1, channels, size, size).double().requires_grad_()
    code = noise(1, 5).double()
    reach = 3 + 2 * 1  # the first layer's, and one for each of the two others
    for row, column, channel in [(0, 0, 0), (0, 7, 0), (6, 5, 0), (11, 11, channels - 1)]:
        logits = decoder(values, code)[0, :, channel, row, column]
        (slope,) = torch.autograd.grad((logits * noise(4).double()).sum(), values)
        for i in range(size):
            for j in range(size):
                for k in range(channels):
                    before = (i, j, k) < (row, column, channel)
                    near = row - i <= reach and abs(column - j) <= reach
                    expected = before and (near or (i, j) == (row, column))
                    where = (row, column, channel), (i, j, k)
                    assert (slope[0, k, i, j] != 0).item() == expected, where


def test_every_value_depends_on_the_code_in_both_stacks():
    decoder = pixel_decoder()
    code = noise(1, 5).double().requires_grad_()
    decoder(noise(1, 2, 6, 6).double(), code)[0, 0, 1, 3, 3].backward()
    assert (code.grad != 0).all()
    for layer in decoder.layers:
        down, right = layer.given.weight.grad.chunk(2)
        # The last layer's vertical state goes nowhere but on.
        assert (down != 0).any() == (layer is not decoder.layers[-1])
        assert (right != 0).any()


def test_uniform_prediction_costs_the_logarithm_of_the_levels():
    method = build_method(PixelCNNParams(levels=8), small_encoder(), seed=0)
    torch.nn.init.zeros_(method.decoder.head.logits.weight)
    torch.nn.init.zeros_(method.decoder.head.logits.bias)
    found = output(method, images())
    for name in ("bits_per_dim", "bits_per_dim_given"):
        assert found["metrics"][name].item() == pytest.approx(3)
    assert found["loss"].item() == pytest.approx(3 * math.log(2))


def test_bits_are_those_of_the_predicted_probabilities_in_plain_loops():
    params = PixelCNNParams(levels=4, width=8, layers=1, side=4, alone=0.5)
    method = build_method(params, small_encoder(), seed=0).eval()
    x = images(2)
    levels = method.quantise(x)
    assert levels.shape == (2, 1, 4, 4)
    small = F.avg_pool2d(x, 4)
    code = method.code(method.encoder(x)) * torch.tensor([[0.0], [1.0]])
    logits = method.decoder(method.values(levels), code)
    bits = [0.0, 0.0]
    for n in range(2):
        for i in range(4):
            for j in range(4):
                level = min(3, int(4 * small[n, 0, i, j].item()))
                assert level == levels[n, 0, i, j]
                likely = logits[n, :, 0, i, j].softmax(0)[level].item()
                bits[n] -= math.log2(likely) / 16
    metrics = output(method, x)["metrics"]
    assert metrics["bits_per_dim"].item() == pytest.approx(bits[0], rel=1e-4)
    assert metrics["bits_per_dim_given"].item() == pytest.approx(bits[1], rel=1e-4)


def test_decoder_is_told_nothing_of_the_share_that_stands_alone():
    method = build_method(PixelCNNParams(alone=0.25), small_encoder(), seed=0)
    x = images(8).requires_grad_()
    seen = []
    method.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    output(method, x)
    assert (seen[0][:2] == 0).all() and (seen[0][2:] != 0).any(1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_sampling_draws_from_what_the_whole_decoder_predicts(channels):
    """Sampling computes row by row; the same logits must come out as of the image at once."""
    params = PixelCNNParams(side=6, levels=4, width=8, layers=2)
    method = build_method(params, small_encoder(channels), seed=0).eval()
    code = noise(3, 100)
    asked = []
    method.decoder.head.register_forward_hook(lambda _, __, result: asked.append(result))
    with torch.no_grad(), seeded(0):
        levels = method.sample(code, (channels, 6, 6))
        stepwise, asked = list(asked), []
        logits = method.decoder(method.values(levels), code)
    assert len(stepwise) == channels * 36
    for number, step in enumerate(stepwise):
        pixel, channel = divmod(number, channels)
        whole = logits[:, :, channel, pixel // 6, pixel % 6]
        assert torch.allclose(step[:, :, channel, 0, 0], whole, atol=1e-5)


def test_sampling_is_a_function_of_its_seed():
    method = build_method(PixelCNNParams(side=6), small_encoder(), seed=0).eval()
    x, drawn = images(2), []
    for seed in (0, 0, 1):
        with torch.no_grad(), seeded(seed):
            drawn.append(method.pictures(x)["drawn from nothing"])
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])


def test_decoder_that_knows_one_image_by_heart_draws_it():
    params = PixelCNNParams(side=5, levels=3, layers=2)
    # In evaluation mode all along: a batch of one image has no statistics.
    method = build_method(params, small_encoder(), seed=0).eval()
    x = noise(1, 1, 5, 5).expand(4, -1, -1, -1)
    train(method, x, 60, lr=1e-2)
    with torch.no_grad(), seeded(0):
        rows = method.pictures(x)
    assert torch.equal(rows["drawn from its features"], rows["shrunk for the decoder"])
    assert torch.equal(rows["drawn from nothing"], rows["shrunk for the decoder"])


def test_features_save_bits_where_they_tell_images_apart():
    params = PixelCNNParams(side=4, levels=4, layers=1, alone=0.5)
    method = build_method(params, small_encoder(), seed=0)
    x = images(32)
    train(method, x, 60, lr=1e-2)
    metrics = output(method, x)["metrics"]
    assert metrics["bits_per_dim_given"] < metrics["bits_per_dim"] - 0.01
