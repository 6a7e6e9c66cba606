"""What an export's README says: each file, each input and output, and the lines that load them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from models.encoders.images.encoder import Encoder

ENCODER, CONFIG, README, CLASSIFIER = (
    "encoder.safetensors", "config.json", "README.md", "classifier.onnx",
)  # fmt: skip


def describe_features(encoder: Encoder) -> dict[str, Any]:
    """Of Instar's features and of the network's own, pooled ones: how many columns, and of what."""
    from models.encoders.params import Readout

    pooled = encoder.read_out_dim(Readout())
    grids = None if encoder.readout == Readout() else encoder.grids(encoder.readout)
    return {
        "columns": encoder.features_dim,
        "pooled_columns": pooled,
        # Of each of the last stages' maps; null: the pooled features themselves.
        "grids": grids and [list(grid) for grid in grids],
    }


def write_readme(config: dict[str, Any], files: set[str]) -> str:
    """The README of a folder that holds these files.

    Args:
        config: The content of config.json.
        files: Names of all files there.
    """
    size, channels = config["input"]["size"], config["input"]["channels"]
    parts = [
        f"# {config['architecture']} for {'grey' if channels == 1 else 'RGB'} images of "
        f"{size} x {size} pixels",
        _table(("file", "what"), [(name, _FILES[name]) for name in sorted(files)]),
        "## The encoder",
        *(_timm_part(config) if "create_model" in config else _instar_part(config)),
    ]
    if CLASSIFIER in files:
        parts += ["## The classifier", *_onnx_part(config), _answer(config)]
    return "\n\n".join(parts) + "\n"


_ORDER = {1: "grey", 3: "red, green, blue"}
_FILES = {
    ENCODER: "The encoder's weights, without a classifier.",
    CONFIG: "Architecture, size, mean and std, the classes in their order, abstention, and of the "
    "features how many columns they have.",
    CLASSIFIER: "Encoder and classifier as one network; needs onnxruntime alone.",
    README: "What you read.",
}


def _timm_part(config: dict[str, Any]) -> list[str]:
    size, padded = config["input"]["size"], config["padded_to"]
    channels, features = config["input"]["channels"], config["features"]
    more = padded - size
    takes = (
        f"It takes `x`, float32 (N, {channels}, {size}, {size}), {_ORDER[channels]}: (pixels / 255 "
        f"- mean) / std with mean and std of {CONFIG}"
        + (f", then padded by zeros at right and bottom to {padded} x {padded}." if more else ".")
    )
    gives = (
        f"`model(x)` gives (N, {features['pooled_columns']}): timm's own features, pooled as "
        f"timm's {config['architecture']} does."
    )
    if features["grids"] is None:
        return [_code(_timm_lines(config)), f"{takes} {gives} They are Instar's features, too."]
    return [
        _code(_timm_lines(config)),
        f"{takes} {gives} Instar's features are others, (N, {features['columns']}): "
        f"{_maps(features)}. These lines make them of `x`:",
        _code(_feature_lines(features["grids"])),
    ]


def _instar_part(config: dict[str, Any]) -> list[str]:
    size, channels = config["input"]["size"], config["input"]["channels"]
    features = config["features"]
    gives = f"`model(x)` gives Instar's features, (N, {features['columns']})"
    if features["grids"] is not None:
        gives += (
            f": {_maps(features)}. Pooled, they would be (N, {features['pooled_columns']}): "
            "`model.feature_map(x).mean((2, 3))`"
        )
    return [
        _code(_instar_lines()),
        "resnet_tiny is Instar's own network, so timm does not know it: these lines need Instar "
        f"installed, {CLASSIFIER} (`instar export --onnx`) does not. It takes `x`, float32 (N, "
        f"{channels}, {size}, {size}), {_ORDER[channels]}: pixels / 255, no more; mean and std are "
        f"within. {gives}.",
    ]


def _onnx_part(config: dict[str, Any]) -> list[str]:
    size, channels = config["input"]["size"], config["input"]["channels"]
    features = config["features"]
    if features["grids"] is None:
        said = "The encoder's features: pooled, as above."
    else:
        said = (
            f"Instar's features: {_maps(features)}. Not the {features['pooled_columns']} pooled "
            "ones: see above how both follow from the encoder."
        )
    return [
        _table(
            ("", "name", "type and shape", "what"),
            [
                (
                    "in", "`images`", f"uint8 (N, {size}, {size}, {channels}), any N",
                    f"Pixels of 0 to 255, {_ORDER[channels]}, the channels last, not normalised: "
                    "that is within.",
                ),
                (
                    "out", "`probabilities`", f"float32 (N, {len(config['classes'])})",
                    f"A row sums to 1; its columns are in the order of `classes` in {CONFIG}.",
                ),
                ("out", "`features`", f"float32 (N, {features['columns']})", said),
            ],
        ),
        _code(
            [
                "import json, numpy as np, onnxruntime",
                f'session = onnxruntime.InferenceSession("{CLASSIFIER}")',
                f"images = np.zeros((5, {size}, {size}, {channels}), np.uint8)  # yours",
                'probabilities, features = session.run(None, {"images": images})',
                f'classes = json.load(open("{CONFIG}"))["classes"]',
                "guesses = [classes[best] for best in probabilities.argmax(axis=1)]",
            ]
        ),
        f"An image of another size is squashed to {size} x {size} (Pillow's `resize` with "
        "`BICUBIC`), after it was turned as its EXIF says, its transparency put on white, and its "
        f"colours made {'grey' if channels == 1 else 'RGB'} (Pillow's `convert`).",
    ]  # fmt: skip


def _answer(config: dict[str, Any]) -> str:
    abstention = config["abstention"]
    if abstention is None:
        return "The label is the class of the largest probability. This version never abstains."
    if abstention["threshold"] is None:
        return (
            "This version abstains from all: it had too few labels to promise what it was to. Its "
            "best guess is the class of the largest probability."
        )
    return (
        "The label is the class of the largest probability, if that is at least "
        f"{abstention['threshold']!r}; else the model abstains, as `instar predict` does."
    )


def _maps(features: dict[str, Any]) -> str:
    """How Instar's features come about, as part of a sentence."""
    grids = [f"{rows} x {columns}" for rows, columns in features["grids"]]
    if len(grids) == 1:
        return (
            f"the last map, averaged to {grids[0]} positions; the columns run over channels, then "
            "rows, then columns of the grid"
        )
    return (
        f"the maps of the last {len(grids)} stages, averaged to {', '.join(grids)} positions, side "
        "by side; of each the columns run over channels, then rows, then columns of the grid"
    )


def _timm_lines(config: dict[str, Any]) -> list[str]:
    options = ", ".join(f"{key}={value}" for key, value in config["create_model"].items())
    lines = [
        "import timm, torch; from safetensors.torch import load_file",
        f'model = timm.create_model("{config["architecture"]}", {options})',
    ]
    if config["small_image_stem"]:
        lines.append("model.maxpool = torch.nn.Identity()  # the stem for small images")
    if config["small_image_stem"] == "one":
        channels = config["create_model"]["in_chans"]
        lines.append(
            f"model.conv1 = torch.nn.Conv2d({channels}, model.conv1.out_channels, 3, 1, 1, "
            "bias=False)"
        )
    elif config["small_image_stem"] == "deep":
        lines.append("model.conv1[0].stride = (1, 1)")
    lines.append(f'model.load_state_dict(load_file("{ENCODER}"), strict=True)')
    return [*lines, "model.eval()"]


def _feature_lines(grids: list[list[int]]) -> list[str]:
    pooled = "torch.nn.functional.adaptive_avg_pool2d"
    return [
        f'maps = model.forward_intermediates(x, indices={len(grids)}, output_fmt="NCHW", '
        "intermediates_only=True)",
        f"features = torch.cat([{pooled}(map, grid).flatten(1) "
        f"for map, grid in zip(maps, {grids})], dim=1)",
    ]


def _instar_lines() -> list[str]:
    return [
        "import json; from models.encoders.images.encoder import build_encoder, EncoderParams; "
        "from models.encoders.weights import load_weights",
        f'c = json.load(open("{CONFIG}")); model = build_encoder(EncoderParams(**c["encoder"]), '
        'c["input"]["channels"], c["input"]["size"], c["mean"], c["std"])',
        f'load_weights(model, "{ENCODER}")',
        "model.eval()",
    ]


def _code(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```"])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    cells = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)
