"""Autoencoder: reducing the dimensionality of data with neural networks.

Hinton, Salakhutdinov 2006, https://www.cs.toronto.edu/~hinton/science.pdf. An encoder ends in a
few linear units, a decoder rebuilds the image from them: L = mean (x - g(f(x)))^2, the squared
error by which the paper compares. Its pretraining by layers of RBMs is not done: batch norm has
made it needless.

The code is narrow, since a wide one would learn to copy: the encoder's features may be as many
numbers as the image has, and a copy says nothing about it. `code` is the paper's for 28 x 28
digits and 25 x 25 faces, 30. It sits behind the features, which are what is kept.

Accepts any encoder. One view, which is what is rebuilt: crops and flips make it see more.
"""

from collections.abc import Mapping

from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.methods.base import Method, StepOutput, one_view
from models.methods.generative.decoder import Decoder
from models.methods.generative.params import AutoencoderParams
from models.methods.losses import psnr


class Autoencoder(Method):
    """f is the encoder and the linear code, g the decoder."""

    def __init__(self, params: AutoencoderParams, encoder: Encoder):
        super().__init__(encoder)
        self.code = nn.Linear(encoder.features_dim, params.code)
        channels = encoder.mean.shape[1]
        self.decoder = Decoder(params.code, channels, encoder.size, params.decoder_width)

    def training_step(self, batch: dict) -> StepOutput:
        """Rebuild the view."""
        x = one_view(batch)
        code = self.code(self.encoder(x))
        loss = (x - self.decoder(code, x.shape[2:])).square().mean()
        return {"loss": loss, "embeddings": code, "metrics": {"psnr": psnr(loss)}}

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """What is rebuilt of each image."""
        return {"rebuilt": self.decoder(self.code(self.encoder(images)), images.shape[2:])}
