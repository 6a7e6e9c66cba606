"""Weights on disk: safetensors only, since it holds numbers and can run no code."""

import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from models.errors import ModelError


def save_weights(module: nn.Module, path: str | Path) -> None:
    """Write the module's parameters and buffers; equal weights give equal bytes.

    The file appears whole or not at all.
    """
    path = Path(path)
    # Contiguous: channels_last is a matter of speed and must not change the bytes. No metadata:
    # safetensors keeps it in a hash map, whose order is not fixed.
    tensors = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in module.state_dict().items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    save_file(tensors, partial)
    os.replace(partial, path)


def load_weights(module: nn.Module, path: str | Path) -> None:
    """Copy the weights of a file into the module, in place; all or nothing.

    Raises:
        ModelError: The file is missing or no safetensors file (pickles, as `torch.save` writes,
            are never opened), or a tensor is missing, left over, or has another shape or dtype
            than the module's; the tensor is named.
    """
    path = Path(path)
    stored = _read(path)
    wanted = module.state_dict()
    for name, tensor in wanted.items():
        if name not in stored:
            raise ModelError(f"{path} has no tensor {name!r}; {_REMEDY}")
        found = stored[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise ModelError(
                f"{path}: tensor {name!r} is {_describe(found)}, the model wants "
                f"{_describe(tensor)}; {_REMEDY}"
            )
    for name in stored:
        if name not in wanted:
            raise ModelError(f"{path} has a tensor {name!r} that the model lacks; {_REMEDY}")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(stored[name])


_REMEDY = "it was written by a model with other settings: use those, or train again"


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ModelError(f"the weights file {path} does not exist; run the stage that writes it")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ModelError(
            f"{path} is not a whole safetensors file ({error}); restore it or write it again "
            "with save_weights. Pickles (.pt, .pth, .ckpt) are never loaded"
        ) from error


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
