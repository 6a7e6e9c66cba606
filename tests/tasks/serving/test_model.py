import base64
import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from data.errors import DataError
from tasks.serving.model import ServedModel, build_served_model
from tasks.serving.packaging import log_served_model, requirements
from tasks.tracking.client import connect
from tests.tasks.conftest import CLASSES, SIZE, uri, write_classifier


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    classifier = write_classifier(folder, seed=3)
    description = json.loads((folder / "learners.json").read_text())
    weights = folder / "classifiers" / "pretrained-0.safetensors"
    return classifier, build_served_model(description, weights)


ANSWER = ["label", "guess", "confidence", "abstained"]


def images(count=5, size=SIZE, channels=()):
    shape = (count, size, size, *channels)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def probabilities(table):
    return table[[f"prob_{name}" for name in CLASSES]].to_numpy()


def test_probabilities_are_those_of_the_classifier(fitted):
    classifier, model = fitted
    pixels = images()
    expected = classifier.predict_proba(torch.from_numpy(pixels[..., None])).numpy()
    answer = model.predict(pixels)
    np.testing.assert_allclose(probabilities(answer), expected, atol=1e-6)
    assert answer["label"].tolist() == [CLASSES[best] for best in expected.argmax(axis=1)]
    assert list(answer.columns) == [*ANSWER, *(f"prob_{name}" for name in CLASSES)]


@pytest.mark.parametrize("count", [0, 1, 3, 600])
def test_any_number_of_images(fitted, count):
    answer = fitted[1].predict(images(count))
    assert len(answer) == count
    np.testing.assert_allclose(probabilities(answer).sum(axis=1), 1, atol=1e-5)


def test_any_size_and_colour_is_brought_to_the_training_canvas(fitted):
    from data.images.reading import to_canvas

    colour = images(2, 40, (3,))
    small = np.stack([to_canvas(image, SIZE, 1) for image in colour])
    model = fitted[1]
    np.testing.assert_allclose(
        probabilities(model.predict(colour)), probabilities(model.predict(small)), atol=1e-6
    )


def test_paths_give_what_their_pixels_give(fitted, tmp_path):
    pixels = images(3)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(paths, pixels, strict=True):
        Image.fromarray(image).save(path)
    model = fitted[1]
    expected = probabilities(model.predict(pixels))
    names = [str(path) for path in paths]
    for given in (names, paths, np.array(names), pd.DataFrame({"path": names})):
        np.testing.assert_allclose(probabilities(model.predict(given)), expected, atol=1e-6)


def test_encoded_images_give_what_their_pixels_give(fitted):
    pixels = images(3)
    files = []
    for image in pixels:
        content = io.BytesIO()
        Image.fromarray(image).save(content, "PNG")
        files.append(content.getvalue())
    model = fitted[1]
    expected = probabilities(model.predict(pixels))
    for column in (files, [base64.b64encode(file).decode() for file in files]):
        answer = model.predict(pd.DataFrame({"image": column}))
        np.testing.assert_allclose(probabilities(answer), expected, atol=1e-6)
        rows = model.predict([{"image": item} for item in column])
        np.testing.assert_allclose(probabilities(rows), expected, atol=1e-6)
    for bad in ("no base64!", base64.b64encode(b"no image").decode(), 7):
        with pytest.raises(DataError, match="image 1"):
            model.predict(pd.DataFrame({"image": [files[0], bad]}))


def test_model_abstains_below_its_threshold_and_keeps_its_guess(fitted):
    classifier, open_minded = fitted
    sure = open_minded.predict(images(40))
    assert not sure["abstained"].any() and (sure["label"] == sure["guess"]).all()
    threshold = float(sure["confidence"].sort_values().iloc[20])  # which is just enough
    shy = ServedModel(classifier, CLASSES, SIZE, 1, {"threshold": threshold})
    answer = shy.predict(images(40))
    assert answer["abstained"].tolist() == (sure["confidence"] < threshold).tolist()
    assert 0 < answer["abstained"].sum() < 40
    assert answer["label"].isna().tolist() == answer["abstained"].tolist()
    assert answer["guess"].tolist() == sure["guess"].tolist()
    mute = ServedModel(classifier, CLASSES, SIZE, 1, {"threshold": None})
    assert mute.predict(images(3))["abstained"].all()


def test_embeddings_come_on_request_and_are_the_encoders(fitted):
    classifier, model = fitted
    pixels = images(2)
    answer = model.predict(pixels, params={"embedding": True})
    with torch.no_grad():
        batch = torch.from_numpy(pixels[:, None]).float() / 255
        expected = classifier.encoder.eval()(batch).numpy()
    np.testing.assert_allclose(np.array(answer["embedding"].tolist()), expected, atol=1e-5)


def test_bad_input_is_named(fitted, tmp_path):
    model = fitted[1]
    (tmp_path / "broken.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"broken\.png"):
        model.predict([str(tmp_path / "broken.png")])
    with pytest.raises(DataError, match=r"absent\.png"):
        model.predict([str(tmp_path / "absent.png")])
    with pytest.raises(DataError, match="image\\[None\\]"):
        model.predict(images()[0])
    with pytest.raises(DataError, match="'path'"):
        model.predict(pd.DataFrame({"file": ["a.png"]}))


def test_a_file_larger_than_an_image_may_be_is_refused_unread(fitted, tmp_path, monkeypatch):
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(1 << 40)
    monkeypatch.setattr("data.files.BYTES_LIMIT", 1 << 20)
    with pytest.raises(DataError, match=r"huge\.png: the file is larger than"):
        fitted[1].predict([str(tmp_path / "huge.png")])


def test_requirements_are_few_and_pinned():
    assert all("==" in line and "+" not in line for line in requirements("resnet_tiny"))
    assert not any(line.startswith("timm") for line in requirements("resnet_tiny"))
    assert any(line.startswith("timm==") for line in requirements("vit_tiny_patch16_224"))


PREDICT = """
import sys, mlflow, numpy
assert not any("my project" in path for path in sys.path)
model = mlflow.pyfunc.load_model(sys.argv[1])
pixels = numpy.load(sys.argv[2])
table = model.predict(pixels, params={"embedding": True})
assert len(table["embedding"][0]) == 8
assert len(model.predict([sys.argv[3]])) == 1
import pandas
assert len(model.predict(pandas.DataFrame({"path": [sys.argv[3]] * 2}))) == 2
assert not [name for name in sys.modules if name.startswith(("lightning", "prefect", "dvc"))]
ours = [m for name, m in sys.modules.items() if name.startswith(("tasks.", "models.", "data."))]
strange = [module.__file__ for module in ours if "/code/" not in module.__file__]
assert not strange, f"not brought along by the model: {strange}"
table.drop(columns="embedding").to_json(sys.argv[4])
"""


def test_the_logged_model_works_in_a_plain_python_anywhere(project, tmp_path):
    client = connect(uri(project))
    experiment = client.create_experiment("tiny", artifact_location=str(project / "mlartifacts"))
    run = client.create_run(experiment)
    model_id = log_served_model(client, run.info.run_id, project, "tiny")
    files = [path for path in (project / "mlartifacts").rglob("*") if path.is_file()]
    kinds = {path.suffix for path in files}
    assert kinds <= {"", ".py", ".json", ".safetensors", ".txt", ".yaml"}, "no pickle, no raw data"
    np.save(tmp_path / "pixels.npy", images())
    Image.fromarray(images(1)[0]).save(tmp_path / "image.png")
    arguments = [f"models:/{model_id}", "pixels.npy", "image.png", "answer.json"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", PREDICT, *arguments],
        cwd=tmp_path, env={"MLFLOW_TRACKING_URI": uri(project), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    description = json.loads((project / "artifacts/finetune/learners.json").read_text())
    weights = project / "artifacts/finetune/classifiers/pretrained-0.safetensors"
    expected = build_served_model(description, weights).predict(images())
    answer = pd.read_json(tmp_path / "answer.json")
    np.testing.assert_allclose(probabilities(answer), probabilities(expected), atol=1e-5)

    logged = client.get_logged_model(model_id)
    assert (logged.source_run_id, str(logged.status)) == (run.info.run_id, "READY")
    outputs = client.get_run(run.info.run_id).outputs.model_outputs
    assert [output.model_id for output in outputs] == [model_id]
    (metadata,) = [path for path in files if path.name == "MLmodel"]
    from mlflow.models import Model

    signature = Model.load(str(metadata)).signature
    assert signature.inputs is not None
    assert signature.outputs.input_names()[:5] == [*ANSWER, "prob_bag"]
    assert [param.name for param in signature.params.params] == ["embedding"]
