"""SwAV: Unsupervised Learning of Visual Features by Contrasting Cluster Assignments.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin 2020, https://arxiv.org/abs/2006.09882. z = g(f(x))
of each crop, normalised, is compared with prototypes C. The two global views of a batch are shared
out evenly among the prototypes (codes q, equations 3 and 4: Sinkhorn-Knopp, three rounds), and
each crop's softmax of z C / tau predicts the codes of the other views (equations 1 and 2, small
crops as in section 3.2). Prototypes stay as they are during the first steps.

Accepts any encoder; one of a fixed input size without small crops. tau and epsilon are the paper's,
the hidden width is its by 8, the embeddings' own is kept. Prototypes are fewer than the images of a
batch (the paper: 3000 for batches of 4096), so that a batch can be shared out among them and needs
no queue of former ones. `frozen_steps` is a third of the 313 of the authors' code,
since runs are short.
"""

import torch

from models.encoders.images.encoder import Encoder
from models.layers.heads import mlp
from models.methods.base import Method, StepOutput, encode_crops, require_crops
from models.methods.clustering.params import SwAVParams
from models.methods.prototypes import Prototypes, in_use, sinkhorn, swapped_prediction


class SwAV(Method):
    """f is the encoder, g the projector."""

    def __init__(self, params: SwAVParams, encoder: Encoder):
        super().__init__(encoder)
        require_crops(encoder, params)
        self.local_views = params.local_views
        self.temperature, self.epsilon = params.temperature, params.epsilon
        self.projector = mlp(encoder.features_dim, params.projector_hidden, params.projector_dim)
        self.prototypes = Prototypes(
            params.projector_dim, params.prototypes, frozen_steps=params.frozen_steps
        )

    def training_step(self, batch: dict) -> StepOutput:
        """Predict the codes of the global views from the other crops (algorithm 1)."""
        count = len(batch["views"][0])
        z = self.projector(encode_crops(self.encoder, batch, self.local_views))
        scores = self.prototypes(z).unflatten(0, (-1, count))  # (V, N, K)
        codes = torch.stack([sinkhorn(view, self.epsilon) for view in scores[:2]])
        log_p = (scores / self.temperature).log_softmax(dim=2)
        best = scores[:2].argmax(dim=2)
        return {
            "loss": swapped_prediction(codes, log_p),
            "embeddings": z[:count],
            "metrics": {
                "views_agree": (best[0] == best[1]).float().mean(),
                "prototypes_used": in_use(log_p[0].detach().exp()),
                "code_entropy": torch.special.entr(codes).sum(dim=2).mean(),
            },
        }

    def after_step(self, progress: float) -> None:
        """Count the steps in which the prototypes stay."""
        self.prototypes.step()
