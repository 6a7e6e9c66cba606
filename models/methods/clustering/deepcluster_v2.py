"""DeepCluster v2: clusters of former embeddings are the classes.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin 2020 (SwAV, section 4 and appendix),
https://arxiv.org/abs/2006.09882, on DeepCluster (Caron et al. 2018,
https://arxiv.org/abs/1807.05520). A memory bank holds the embedding z = g(f(x)) that each image had
when it was last seen. As an epoch begins, spherical k-means clusters the bank; during the epoch
each crop's softmax of z C / tau over the centroids C, which stay, is to name its image's cluster.

Accepts any encoder; one of a fixed input size without small crops. Here one set of clusters, where
the paper has three. An image's embedding is the mean of its two global views', normalised. In the
first epoch, when the bank is empty, random centroids stand in, among which Sinkhorn-Knopp shares
out each batch (the authors fill the bank by a pass of its own). tau is the paper's, the hidden
width its by 8, the embeddings' own is kept; clusters are fewer, as are the images (3000 for 1.3
million there).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.encoders.images.encoder import Encoder
from models.errors import ModelError
from models.layers.heads import mlp
from models.methods.base import Method, StepOutput, encode_crops, require_crops
from models.methods.clustering.params import DeepClusterV2Params
from models.methods.prototypes import in_use, nearest, sinkhorn, spherical_kmeans

EPSILON = 0.05
UNKNOWN = -1


class DeepClusterV2(Method):
    """f is the encoder, g the projector."""

    bank: Tensor
    assigned: Tensor
    centroids: Tensor
    moved: Tensor
    used: Tensor

    def __init__(self, params: DeepClusterV2Params, encoder: Encoder):
        super().__init__(encoder)
        require_crops(encoder, params)
        self.local_views, self.temperature = params.local_views, params.temperature
        self.projector = mlp(encoder.features_dim, params.projector_hidden, params.projector_dim)
        centroids = F.normalize(torch.randn(params.clusters, params.projector_dim), dim=1)
        self.register_buffer("centroids", centroids)
        self.register_buffer("moved", torch.ones(()))
        self.register_buffer("used", torch.zeros(()))
        self.all_assigned = False

    def expect(self, images: int) -> None:
        """Make room for an embedding and a cluster of each image."""
        if images < len(self.centroids):
            raise ModelError(
                f"{images} images cannot make {len(self.centroids)} clusters; lower "
                "pretrain.method.clusters"
            )
        self.register_buffer("bank", torch.zeros(images, self.centroids.shape[1]))
        self.register_buffer("assigned", torch.full((images,), UNKNOWN))

    @torch.no_grad()
    def before_epoch(self) -> None:
        """Cluster the memory bank, once it holds enough; what was never seen has no cluster yet."""
        seen = self.bank.any(dim=1)
        if seen.sum() >= len(self.centroids):
            self.centroids = spherical_kmeans(self.bank[seen], len(self.centroids))
            assigned = nearest(self.bank, self.centroids).masked_fill(~seen, UNKNOWN)
            self.moved = share_moved(self.assigned, assigned, len(self.centroids))
            self.assigned = assigned
            sizes = torch.bincount(assigned[seen], minlength=len(self.centroids))
            self.used = in_use(sizes.unsqueeze(0) / sizes.sum())
        self.all_assigned = bool(seen.all())

    def training_step(self, batch: dict) -> StepOutput:
        """Name the image's cluster from each crop, and remember its embedding."""
        views, index = len(batch["views"]), batch["index"]
        z = self.projector(encode_crops(self.encoder, batch, self.local_views))
        scores = F.normalize(z, dim=1) @ self.centroids.T
        own = F.normalize(z.detach().unflatten(0, (views, -1))[:2], dim=2).mean(dim=0)
        own = F.normalize(own, dim=1)
        cluster = self.assigned[index]
        if not self.all_assigned:
            stand_in = sinkhorn(own @ self.centroids.T, EPSILON).argmax(dim=1)
            cluster = torch.where(cluster == UNKNOWN, stand_in, cluster)
        self.bank[index] = own
        named = scores.argmax(dim=1) == cluster.repeat(views)
        return {
            "loss": F.cross_entropy(scores / self.temperature, cluster.repeat(views)),
            "embeddings": z[: len(index)],
            "metrics": {
                "cluster_accuracy": named.float().mean(),
                "clusters_used": self.used,
                "moved": self.moved,
            },
        }


def share_moved(before: Tensor, after: Tensor, clusters: int) -> Tensor:
    """Share of images that left the others: those not in their new cluster's main old one.

    Clusters have no names that last, so each new one goes by the old one of most of its images.

    Args:
        before: (N,) clusters, or `UNKNOWN`, which counts as moved.
        after: (N,) likewise.
        clusters: K.
    """
    known = (before != UNKNOWN) & (after != UNKNOWN)
    pairs = after[known] * clusters + before[known]
    table = torch.bincount(pairs, minlength=clusters**2).view(clusters, clusters)
    return 1 - table.amax(dim=1).sum() / len(after)
