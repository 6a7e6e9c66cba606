"""VAE: auto-encoding variational Bayes.

Kingma, Welling 2014, https://arxiv.org/abs/1312.6114. The encoder gives a Gaussian over codes,
q(z|x) = N(mu, diag sigma^2), a sample z = mu + sigma * eps (equation 10) goes through the decoder,
and the bound on log p(x) is maximised: L = -E log p(x|z) + KL(q(z|x) || N(0, I)) (equation 7; the
divergence in closed form, appendix B), per dimension of the image, in nats.

p(x|z) is a Gaussian around the decoded image (appendix C.2) with one variance for all pixels,
which is learned; so the two terms weigh what they should, whatever the images. `beta` weighs the
divergence (Higgins et al. 2017, https://openreview.net/forum?id=Sy2fzU9gl); 1 is the paper's bound.

Accepts any encoder. `latents` is in the middle of the paper's for digits, 3 to 200: too many do no
harm (figure 2), since those that do not pay for their divergence stay at the prior.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.methods.base import Method, StepOutput, one_view
from models.methods.generative.decoder import Decoder
from models.methods.generative.params import VAEParams
from models.methods.losses import gaussian_kl, gaussian_nll, psnr


class VAE(Method):
    """The encoder and `posterior` are q(z|x), the decoder and `log_variance` p(x|z)."""

    def __init__(self, params: VAEParams, encoder: Encoder):
        super().__init__(encoder)
        self.beta = params.beta
        self.posterior = nn.Linear(encoder.features_dim, 2 * params.latents)
        channels = encoder.mean.shape[1]
        self.decoder = Decoder(params.latents, channels, encoder.size, params.decoder_width)
        self.log_variance = nn.Parameter(torch.tensor(-2.0))

    def training_step(self, batch: dict) -> StepOutput:
        """Maximise the bound, one sample an image."""
        x = one_view(batch)
        mean, log_variance = self.posterior(self.encoder(x)).chunk(2, dim=1)
        z = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        error = (x - self.decoder(z, x.shape[2:])).square().mean()
        nll = gaussian_nll(error, self.log_variance)
        kl = gaussian_kl(mean, log_variance).mean()
        metrics = {
            "elbo_per_dim": -nll - kl / x[0].numel(),
            "kl": kl,
            "psnr": psnr(error),
            # Burda et al. 2016, https://arxiv.org/abs/1509.00519, section 5.2.
            "active_latents": (mean.var(dim=0) > 0.01).sum().float(),
        }
        loss = nll + self.beta * kl / x[0].numel()
        return {"loss": loss, "embeddings": mean, "metrics": metrics}

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """What is rebuilt of each image, and samples from the prior."""
        mean, _ = self.posterior(self.encoder(images)).chunk(2, dim=1)
        size = images.shape[2:]
        return {
            "rebuilt": self.decoder(mean, size),
            "drawn from the prior": self.decoder(torch.randn_like(mean), size),
        }
