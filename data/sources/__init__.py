"""Where images come from: one file per kind of source, all giving the same stream of samples."""

from data.samples import Source
from data.sources.params import DataParams


def open_source(params: DataParams) -> Source:
    """The source that `params` names.

    Raises:
        DataError: It cannot be found, fetched or understood.
    """
    if params.source == "fashion-mnist":
        from data.sources.fashion_mnist import FashionMnist

        return FashionMnist(params)
    if params.source == "cifar10":
        from data.sources.cifar10 import Cifar10

        return Cifar10(params)
    if params.source == "npz":
        from data.sources.npz import Npz

        return Npz(params)
    from data.sources.folder import Folder

    return Folder(params)
