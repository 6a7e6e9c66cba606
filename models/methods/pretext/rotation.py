"""RotNet: Unsupervised Representation Learning by Predicting Image Rotations.

Gidaris, Singh, Komodakis 2018, https://arxiv.org/abs/1803.07728. Each image is turned by 0, 90,
180 and 270 degrees, and a linear classifier on f predicts by how much: cross-entropy over the four
turns (equations 2 and 3). To know which way is up one must know what is to be seen.

As in the paper all four turns of an image are in one batch, which it found better than one turn
each; a batch of a quarter as many images then costs what another method's does, and three of four
views need not be made.

Shortcuts: turns by right angles move pixels and interpolate none, so that no artefact tells the
turn (section 2.2). What does is whatever all images share: lettering, a vignette, a light from
above. Images without an up and down, such as textures or satellite photos, teach nothing.

Accepts any encoder.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.encoders.images.encoder import Encoder
from models.methods.base import Method, StepOutput, one_view
from models.methods.pretext.geometry import quarter_turns
from models.methods.pretext.params import RotationParams


class Rotation(Method):
    """f is the encoder."""

    def __init__(self, params: RotationParams, encoder: Encoder):
        super().__init__(encoder)
        self.classifier = nn.Linear(encoder.features_dim, 4)

    def training_step(self, batch: dict) -> StepOutput:
        """Predict all four turns of each image."""
        x = one_view(batch)
        turned = torch.cat([x.rot90(turns, (2, 3)) for turns in range(4)])
        turns = torch.arange(4, device=x.device).repeat_interleave(len(x))
        logits = self.classifier(self.encoder(turned))
        accuracy = (logits.argmax(1) == turns).float().mean()
        return {"loss": F.cross_entropy(logits, turns), "metrics": {"accuracy": accuracy}}

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """Show images turned, and turned back by what is predicted of them."""
        turned = quarter_turns(images, torch.randint(4, (len(images),), device=images.device))
        predicted = self.classifier(self.encoder(turned)).argmax(1)
        return {
            "as shown to the network": turned,
            "turned back as it believes": quarter_turns(turned, -predicted),
        }
