"""Denoising autoencoder: extracting and composing robust features.

Vincent et al. 2008, https://www.cs.toronto.edu/~larocheh/publications/icml-2008-denoising-autoencoders.pdf,
and 2010, https://jmlr.org/papers/v11/vincent10a.html. A share of the image's values is set to 0
at random (masking noise) and the image is rebuilt as it was: L = mean (x - g(f(x~)))^2, with x~ ~
q(x~ | x) (section 3.1 of 2010, squared error). Copying would rebuild the noise.

No bottleneck: the paper's point is that noise does its job, and codes may be wider than images. So
the decoder reads the encoder's features themselves. Layers are trained at once, not stacked.

Accepts any encoder. `masked` is the 25% that served the paper best most often (2010, table 3).
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from models.encoders.images.encoder import Encoder
from models.methods.base import Method, StepOutput, one_view
from models.methods.generative.decoder import Decoder
from models.methods.generative.params import DenoisingAutoencoderParams
from models.methods.losses import psnr


class DenoisingAutoencoder(Method):
    """f is the encoder, g the decoder."""

    def __init__(self, params: DenoisingAutoencoderParams, encoder: Encoder):
        super().__init__(encoder)
        self.masked = params.masked
        channels = encoder.mean.shape[1]
        self.decoder = Decoder(encoder.features_dim, channels, encoder.size, params.decoder_width)

    def training_step(self, batch: dict) -> StepOutput:
        """Rebuild the clean view from the corrupted one."""
        x = one_view(batch)
        corrupted = self.corrupt(x)
        features = self.encoder(corrupted)
        loss = (x - self.decoder(features, x.shape[2:])).square().mean()
        noise = (x - corrupted).square().mean()
        metrics = {"psnr": psnr(loss), "psnr_corrupted": psnr(noise)}
        return {"loss": loss, "embeddings": features, "metrics": metrics}

    def corrupt(self, images: Tensor) -> Tensor:
        """Set each value to 0 with the probability `masked`: (N, C, H, W) to the same."""
        return images * (torch.rand_like(images) >= self.masked)

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """The corrupted images, and what is rebuilt of them."""
        corrupted = self.corrupt(images)
        rebuilt = self.decoder(self.encoder(corrupted), images.shape[2:])
        return {"corrupted": corrupted, "rebuilt": rebuilt}
