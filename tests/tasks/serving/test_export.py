"""What is exported is loaded by other people's tools and gives the model's own answers."""

import contextlib
import json

import numpy as np
import pytest
import torch
from torch.nn.functional import pad

from flows.commands import export as commands_export
from models.encoders.images.encoder import build_encoder
from models.encoders.images.pixels import to_float
from models.encoders.params import EncoderParams, Readout
from models.learners import LinearProbeParams, build_classifier
from tasks.errors import TaskError
from tasks.serving import export
from tasks.serving.export import export_classifier, export_encoder
from tasks.serving.export_readme import describe_features, write_readme
from tasks.serving.loading import Loaded
from tasks.serving.model import ServedModel

CLASSES = ["bag", "coat", "shoe"]
TINY = EncoderParams(stem_width=4, widths=(8, 8))


def make_model(encoder=TINY, size=16, channels=1, readout=None):
    shape = {"mean": [0.3] * channels, "std": [0.2] * channels}
    network = build_encoder(encoder, channels, size, **shape, seed=0)
    learner = LinearProbeParams(readout=readout or Readout(grid=3, stages=2))
    torch.manual_seed(0)
    return ServedModel(build_classifier(learner, network, 3).eval(), CLASSES, size, channels)


def images(model, count=3):
    shape = (count, model.size, model.size, model.channels)
    return torch.from_numpy(np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8))


def type_lines(folder, block, names):
    """Type a block of the README's lines in its folder; gives all names that are there then."""
    blocks = (folder / "README.md").read_text().split("```python\n")[1:]
    with contextlib.chdir(folder):
        exec(blocks[block].partition("```")[0], names)
    return names


def follow_readme(folder):
    """The model that its first lines build."""
    return type_lines(folder, 0, {})["model"].eval()


@pytest.mark.parametrize(
    ("name", "options", "size", "channels"),
    [
        ("resnet18", {}, 32, 3),  # with the stem for small images
        ("resnet18d", {}, 32, 1),  # whose stem has three layers
        ("resnet18", {}, 80, 1),
        ("vit_tiny_patch16_224", {"patch_size": 4}, 28, 1),
        ("vit_tiny_patch16_224", {}, 28, 3),  # padded to whole patches
        ("convnext_atto", {}, 28, 3),  # padded to one position
    ],
)
def test_timm_loads_the_encoder_by_the_lines_of_the_readme(tmp_path, name, options, size, channels):
    encoder = EncoderParams(name=name, **options)
    model = make_model(encoder, size, channels, Readout())
    config = export_encoder(model, encoder.model_dump(mode="json"), tmp_path)
    assert config == json.loads((tmp_path / "config.json").read_text())
    loaded = follow_readme(tmp_path)
    assert type(loaded).__module__.startswith("timm.")
    pixels = to_float(images(model))
    mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
    more = config["padded_to"] - size
    with torch.no_grad():
        found = loaded(pad((pixels - mean) / std, (0, more, 0, more)))
        expected = model.classifier.encoder.eval()(pixels)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_our_own_encoder_is_loaded_by_the_lines_of_the_readme(tmp_path):
    model = make_model()
    export_encoder(model, TINY.model_dump(mode="json"), tmp_path)
    pixels = to_float(images(model))
    with torch.no_grad():
        found = follow_readme(tmp_path)(pixels)
        np.testing.assert_array_equal(found, model.classifier.encoder.eval()(pixels))
    assert "timm does not know it" in (tmp_path / "README.md").read_text()


def test_onnx_answers_as_torch_does_whatever_the_batch(tmp_path):
    import onnxruntime

    model = make_model()
    assert export_classifier(model, tmp_path / "classifier.onnx") <= 1e-5
    session = onnxruntime.InferenceSession(str(tmp_path / "classifier.onnx"))
    for count in (1, 5, 40):
        pixels = images(model, count)
        probabilities, features = session.run(None, {"images": pixels.numpy()})
        np.testing.assert_allclose(probabilities, model.classifier.predict_proba(pixels), atol=1e-5)
        with torch.no_grad():
            expected = model.classifier.encoder(to_float(pixels))
        np.testing.assert_allclose(features, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "size", "channels", "readout"),
    [
        ("vit_tiny_patch16_224", {"patch_size": 4}, 28, 1, Readout(grid=2)),
        ("vit_tiny_patch16_224", {}, 28, 3, Readout(grid=3, stages=2)),  # padded, 2 x 2 tokens
        ("resnet18", {}, 32, 3, Readout(grid=2, stages=2)),
        ("convnext_atto", {}, 28, 3, Readout(grid=2, stages=2)),
        ("resnet18", {}, 32, 1, Readout()),
        ("resnet_tiny", TINY.model_dump(exclude={"name", "readout"}), 16, 3, Readout(grid=2)),
        ("resnet_tiny", TINY.model_dump(exclude={"name", "readout"}), 16, 1, Readout()),
    ],
)
def test_readme_says_what_every_output_is_and_its_lines_give_it(
    tmp_path, name, options, size, channels, readout
):
    encoder = EncoderParams(name=name, readout=readout, **options)
    model = make_model(encoder, size, channels, Readout(grid=2))
    model.abstention = {"threshold": 0.4375}
    (tmp_path / "classifier.onnx").write_bytes(b"its presence is enough for the README")
    config = export_encoder(model, encoder.model_dump(mode="json"), tmp_path)
    said = (tmp_path / "README.md").read_text()
    for path in tmp_path.iterdir():
        assert f"| {path.name} |" in said
    whole = model.classifier.encoder.eval()
    pixels = to_float(images(model))
    with torch.no_grad():
        expected, pooled = whole(pixels), whole.read_out(pixels, Readout())
        names = type_lines(tmp_path, 0, {})
        if "create_model" in config:
            mean, std = (torch.tensor(config[key]).view(1, -1, 1, 1) for key in ("mean", "std"))
            more = config["padded_to"] - size
            names["x"] = pad((pixels - mean) / std, (0, more, 0, more))
            np.testing.assert_allclose(names["model"](names["x"]), pooled, atol=1e-4, rtol=1e-4)
            if readout != Readout():
                found = type_lines(tmp_path, 1, names)["features"]
                np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)
        else:
            np.testing.assert_array_equal(names["model"](pixels), expected)
            found = names["model"].feature_map(pixels).mean((2, 3))
            np.testing.assert_allclose(found, pooled, atol=1e-5)
            assert ("`model.feature_map(x).mean((2, 3))`" in said) == (readout != Readout())
    assert config["features"]["columns"] == expected.shape[1]
    assert config["features"]["pooled_columns"] == pooled.shape[1]
    assert f"`images` | uint8 (N, {size}, {size}, {channels})" in said
    assert "`probabilities` | float32 (N, 3)" in said and "`classes` in config.json" in said
    assert f"`features` | float32 (N, {expected.shape[1]})" in said
    assert f"(N, {pooled.shape[1]})" in said and "at least 0.4375; else the model abstains" in said
    assert {1: "grey", 3: "red, green, blue"}[channels] in said


def test_lines_for_onnx_run_and_give_what_torch_gives(tmp_path):
    model = make_model()
    export_classifier(model, tmp_path / "classifier.onnx")
    export_encoder(model, TINY.model_dump(mode="json"), tmp_path)
    found = type_lines(tmp_path, 1, {})
    black = torch.zeros(5, 16, 16, 1, dtype=torch.uint8)
    np.testing.assert_allclose(
        found["probabilities"], model.classifier.predict_proba(black), atol=1e-5
    )
    best = CLASSES[int(model.classifier.predict_proba(black)[0].argmax())]
    assert found["guesses"] == [best] * 5


@pytest.mark.parametrize(
    ("abstention", "said"),
    [
        (None, "never abstains"),
        ({"threshold": None}, "abstains from all"),
        ({"threshold": 0.5}, "0.5;"),
    ],
)
def test_readme_says_when_the_model_abstains(abstention, said):
    model = make_model()
    config = {
        "architecture": "resnet_tiny", "input": {"size": 16, "channels": 1}, "classes": CLASSES,
        "abstention": abstention, "features": describe_features(model.classifier.encoder),
    }  # fmt: skip
    assert said in write_readme(config, {"README.md", "classifier.onnx"})


def test_onnx_that_differs_from_torch_is_not_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(TaskError, match="differs from torch's by"):
        export_classifier(make_model(), tmp_path / "classifier.onnx")
    assert not list(tmp_path.iterdir())


def test_missing_package_is_named_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(TaskError, match=r"onnxruntime is missing: `pip install 'instar\[onnx\]'`"):
        export_classifier(make_model(), tmp_path / "classifier.onnx")


@pytest.mark.parametrize("cause", ["no package", "not written"])
def test_an_export_that_fails_leaves_the_folder_to_the_next_try(tmp_path, monkeypatch, cause):
    (tmp_path / "classifier.json").write_text(json.dumps({"encoder": TINY.model_dump(mode="json")}))
    version = Loaded(make_model(), "tiny@1", "key", tmp_path)
    monkeypatch.setattr(commands_export, "loaded", lambda _: contextlib.nullcontext(version))
    folder = tmp_path / "weights"
    with monkeypatch.context() as patch:
        if cause == "no package":
            patch.setitem(__import__("sys").modules, "onnxruntime", None)
        else:
            patch.setattr(torch.onnx, "export", lambda *_, **__: torch.zeros(1, 2) @ torch.zeros(1))
        with pytest.raises(TaskError):
            commands_export.export_version("tiny@1", folder, onnx=True)
    assert commands_export.export_version("tiny@1", folder, onnx=False)["files"] == [
        "README.md",
        "config.json",
        "encoder.safetensors",
    ]
