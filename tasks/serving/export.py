"""A version's weights for use without Instar: the encoder for timm, the classifier as ONNX."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import TaskError
from tasks.serving.export_readme import CONFIG, ENCODER, README, describe_features, write_readme

if TYPE_CHECKING:
    from torch import Tensor, nn

    from models.encoders.images.encoder import Encoder
    from tasks.serving.model import ServedModel

# Largest difference to torch that an exported probability or feature may have, beside the values'
# own size: both compute in float32, in another order.
TOLERANCE = 1e-4
# Sizes of the batches on which they are compared; the graph was traced with another.
BATCHES = (1, 3, 16)
TRACED = 2


def export_encoder(model: ServedModel, encoder: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Writes weights, config.json, and a README.md that says what each file and output is.

    Args:
        model: The version's model.
        encoder: Its settings (`models.encoders.params.EncoderParams`).
        folder: An existing folder, empty but for the classifier.

    Returns:
        The content of config.json.
    """
    from models.encoders.images.resnet_tiny import TinyResNet
    from models.encoders.weights import save_weights

    whole = model.classifier.encoder
    plain = isinstance(whole.network, TinyResNet)
    save_weights(whole if plain else whole.network.net, folder / ENCODER)  # type: ignore[arg-type]
    config = {
        "architecture": encoder["name"],
        "input": {"size": model.size, "channels": model.channels},
        "mean": whole.mean.flatten().tolist(),
        "std": whole.std.flatten().tolist(),
        "classes": model.classes,
        "abstention": model.abstention,
        "features": describe_features(whole),
        **({"encoder": encoder} if plain else _for_timm(whole, model)),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    files = {path.name for path in folder.iterdir()} | {README}
    (folder / README).write_text(write_readme(config, files), encoding="utf-8")
    return config


def export_classifier(model: ServedModel, path: Path) -> float:
    """Writes the classifier as ONNX with a free batch size, and compares it with torch.

    In: ``images``, uint8 (N, size, size, channels). Out: ``probabilities`` (N, K) and ``features``
    (N, D), the encoder's with its readout: `README` says how timm's own follow.

    Returns:
        The largest difference of any output.

    Raises:
        TaskError: The packages for ONNX are missing, the network cannot be written so, or it
            differs from torch's by more than `TOLERANCE`.
    """
    import torch

    runtime = _require_onnx()
    whole = _network(model)
    try:
        program = torch.onnx.export(
            whole,
            (_noise(model, TRACED),),
            input_names=["images"],
            output_names=["probabilities", "features"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            dynamo=True,
            verbose=False,
        )
        assert program is not None, "the new exporter returns what it made"
        program.save(str(path))
    # By what the exporter does not know: many kinds, of torch's and onnxscript's own.
    except Exception as error:
        path.unlink(missing_ok=True)
        said = " ".join(str(error).split())[:300]
        raise TaskError(
            f"this encoder cannot be written as ONNX ({said}); export without --onnx."
        ) from error
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    worst = 0.0
    for count in BATCHES:
        images = _noise(model, count)
        with torch.no_grad():
            expected = whole(images)
        found = session.run(None, {"images": images.numpy()})
        for theirs, ours in zip(found, expected, strict=True):
            scale = max(1.0, float(ours.abs().max()))
            worst = max(worst, float((torch.from_numpy(theirs) - ours).abs().max()) / scale)
    if worst > TOLERANCE:
        path.unlink()
        raise TaskError(
            f"the ONNX classifier differs from torch's by {worst:.2g} (at most {TOLERANCE:g} is "
            "allowed), so it was removed; export without --onnx."
        )
    return worst


def _network(model: ServedModel) -> nn.Module:
    """From stored images to probabilities and features, as one module."""
    from torch import nn

    from models.encoders.images.pixels import to_float

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = model.classifier

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            pixels = to_float(images)
            return self.classifier(pixels).softmax(dim=1), self.classifier.encoder(pixels)

    return Network().cpu().eval()


def _noise(model: ServedModel, count: int) -> Tensor:
    import torch

    shape = (count, model.size, model.size, model.channels)
    return torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def _require_onnx() -> Any:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise TaskError(
            f"the package {error.name} is missing: `pip install 'instar[onnx]'` (or `make setup`), "
            "then the same command again."
        ) from None
    return onnxruntime


def _for_timm(encoder: Encoder, model: ServedModel) -> dict[str, Any]:
    """How `timm.create_model` builds the network, and what must then be changed by hand."""
    from timm.models.resnet import ResNet
    from torch import nn

    network: Any = encoder.network
    options: dict[str, Any] = {"num_classes": 0, "in_chans": model.channels}
    if network.built_for is not None:
        options["img_size"] = network.side or model.size
        options["patch_size"] = network.net.patch_embed.patch_size[0]
    stem = None
    if isinstance(network.net, ResNet) and isinstance(network.net.maxpool, nn.Identity):
        stem = "one" if isinstance(network.net.conv1, nn.Conv2d) else "deep"
    return {
        "create_model": options,
        # Zeros at the right and bottom, after normalisation.
        "padded_to": max(network.side, model.size),
        "small_image_stem": stem,
    }
