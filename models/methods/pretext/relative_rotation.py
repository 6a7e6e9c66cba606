"""Relative rotation: by which angle is one view of an image turned against another?

The regression cousin of RotNet (Gidaris et al. 2018, https://arxiv.org/abs/1803.07728), for
things that lie about in any orientation, as under a robot's camera. Two views, augmented
independently, are each turned in the plane by any angle; a head h on both features regresses the
rotation from the first to the second.

The rotation is a vector (cos, sin), projected to the unit circle: the angle itself jumps from 359
to 0 degrees, and what jumps is hard to regress (Zhou et al. 2019,
https://arxiv.org/abs/1812.07035, section 3). The loss is the chord between the two rotations,
1 - cos(angle), taken after the projection (Levinson et al. 2020,
https://arxiv.org/abs/2006.14616); the angle as loss would have a kink at its minimum.

h(a, b) + conj h(b, a) is regressed, vectors being complex numbers, so that the views swapped give
the opposite angle, as they must.

Shortcuts, and what closes each:

- corners and borders: only a disc is seen, the same at every angle;
- blur: interpolation blurs at 45 degrees and not at 0, so every view, whatever its angle, is
  moved by half a pixel at most, which blurs all of them alike on average;
- straight traces of the augmentation: set `augmentation.erase` and `rotate` to 0, the one paints
  upright rectangles, the other turns before and beside what is regressed; `crop_ratio` to [1, 1],
  as others stretch along the sides; `hflip` and `vflip` too: between an image and its mirror
  image there is no rotation.

Accepts any encoder. There is no paper to scale the head from.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.methods.base import Method, StepOutput, two_views
from models.methods.pretext.geometry import (
    angle_of,
    chordal_loss,
    geodesic_degrees,
    on_circle,
    turn,
)
from models.methods.pretext.params import RelativeRotationParams


class RelativeRotation(Method):
    """f is the encoder, h the head."""

    def __init__(self, params: RelativeRotationParams, encoder: Encoder):
        super().__init__(encoder)
        self.head = mlp(2 * encoder.features_dim, params.hidden, 2)

    def training_step(self, batch: dict) -> StepOutput:
        """Regress the rotation between two turned views."""
        x1, x2 = two_views(batch)
        (x1, angles1), (x2, angles2) = self._turned(x1), self._turned(x2)
        predicted, true = self.between(x1, x2), on_circle(angles2 - angles1)
        error = geodesic_degrees(predicted.detach(), true).mean()
        return {"loss": chordal_loss(predicted, true), "metrics": {"geodesic_error": error}}

    def between(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Regress the rotations (N, 2), of any length, from x1 to x2 (N, C, S, S)."""
        z1, z2 = self.encoder(x1), self.encoder(x2)
        both = self.head(torch.cat([torch.cat([z1, z2], 1), torch.cat([z2, z1], 1)]))
        there, back = both.chunk(2)
        return there + back * back.new_tensor([1.0, -1.0])

    def pictures(self, images: Tensor) -> Mapping[str, Tensor]:
        """Show two turned views, and the second turned back by what is predicted."""
        (first, _), (second, _) = self._turned(images), self._turned(images)
        back = -angle_of(self.between(first, second))
        still = torch.zeros(len(images), 2, device=images.device)
        return {
            "first view": first,
            "second view": second,
            "second view, turned back to the first": turn(second, back, still, self._fill()),
        }

    def _turned(self, images: Tensor) -> tuple[Tensor, Tensor]:
        angles = 2 * math.pi * torch.rand(len(images), device=images.device)
        shifts = torch.rand(len(images), 2, device=images.device) - 0.5
        return turn(images, angles, shifts, self._fill()), angles

    def _fill(self) -> Tensor:
        return self.encoder.mean.clamp(0, 1)
