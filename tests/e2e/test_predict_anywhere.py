"""The champion of a whole run at work elsewhere: as a command, and served over HTTP."""

import base64
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.e2e.tiny_project import environment, instar
from tests.servers import ObjectStore, Server, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def images(done, tmp_path_factory):
    """The test images as files of the names that they have in the source."""
    folder = tmp_path_factory.mktemp("new")
    (folder / "test_images").mkdir()
    for number, pixels in enumerate(np.load(done[0] / "digits.npz")["test_images"]):
        Image.fromarray(pixels).save(folder / "test_images" / f"{number:07d}", "PNG")
    return folder


@pytest.fixture(scope="module")
def predicted(done, images, tmp_path_factory):
    """What `instar predict` wrote, in a folder that is no checkout."""
    return predict(done[0], images, tmp_path_factory.mktemp("elsewhere"))


def predict(root, place, folder, **more):
    command = [sys.executable, "-m", "flows.cli", "predict", "tiny@production"]
    ended = subprocess.run(
        [*command, "--input", str(place), "--output", "labels.parquet", "--probabilities"],
        cwd=folder, env={**served_from(root), **more}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert os.listdir(folder) == ["labels.parquet"]
    return folder / "labels.parquet"


def served_from(root):
    return {**environment(root), "MLFLOW_TRACKING_URI": f"sqlite:///{root}/mlflow.db"}


def test_predictions_are_those_that_evaluate_judged(done, predicted):
    judged = pd.read_parquet(done[0] / "artifacts/evaluate/predictions.parquet").set_index("id")
    rows = pq.read_table(predicted).to_pandas().set_index("id").loc[judged.index]
    assert rows["guess"].tolist() == judged["predicted"].astype(str).tolist()
    assert rows["reason"].isna().all()
    best = judged.filter(like="prob_").max(axis=1)
    np.testing.assert_allclose(rows["confidence"], best, atol=1e-6)
    found = json.loads((done[0] / "artifacts/evaluate/metrics.json").read_text())["abstention"]
    assert 1 - rows["abstained"].mean() == pytest.approx(found["answered"], abs=1e-6)


def test_a_bucket_gives_the_bytes_that_the_folder_gives(done, images, predicted, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    with ObjectStore(tmp_path / "weed") as store:
        place = store.upload(images, "new")
        # As in a company: nothing of this machine is asked through its proxy.
        found = predict(
            done[0], place, tmp_path / "elsewhere", HTTP_PROXY="http://127.0.0.1:9", **store.reached
        )
    assert found.read_bytes() == predicted.read_bytes()


def test_mlflow_serves_the_same_answers_over_http(done, images, predicted):
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/tiny@production",
        "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    path = f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"
    server = Server(command, address, f"{address}/ping", {**served_from(done[0]), "PATH": path})
    with server:
        rows = pq.read_table(predicted).to_pandas()[:5]
        files = [(images / name).read_bytes() for name in rows["path"]]
        pixels = np.stack([np.asarray(Image.open(images / name)) for name in rows["path"]])
        encoded = [{"image": base64.b64encode(content).decode()} for content in files]
        for inputs in (encoded, pixels.tolist()):
            answers = pd.DataFrame(ask(address, inputs)["predictions"])
            assert answers["guess"].tolist() == rows["guess"].tolist()
            assert answers["abstained"].tolist() == rows["abstained"].tolist()
            assert answers["label"].isna().tolist() == rows["label"].isna().tolist()
            np.testing.assert_allclose(answers["confidence"], rows["confidence"], atol=1e-5)
        for inputs, said in (
            ([{"image": base64.b64encode(b"no image").decode()}], "not an image"),
            (np.zeros((16, 16, 3), int).tolist(), "can be read in 2 ways"),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                ask(address, inputs)
            assert refused.value.code == 400 and said in refused.value.read().decode()


def ask(address, inputs):
    content = json.dumps({"inputs": inputs}).encode()
    sent = urllib.request.Request(
        f"{address}/invocations", content, {"Content-Type": "application/json"}
    )
    return json.load(urllib.request.urlopen(sent, timeout=60))


def test_export_of_the_champion_answers_as_it_does(done, images, predicted, tmp_path):
    import onnxruntime

    root = tmp_path / "checkout"
    shutil.copytree(done[0], root, symlinks=True)
    ended = instar(root, "export", "tiny@production", "--to", "weights", "--onnx", "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads(ended.stdout)["onnx_difference"] < 1e-4
    session = onnxruntime.InferenceSession(str(root / "weights" / "classifier.onnx"))
    rows = pq.read_table(predicted).to_pandas()[:7]
    pixels = np.stack([np.asarray(Image.open(images / name)) for name in rows["path"]])
    probabilities, _ = session.run(None, {"images": pixels[..., None]})
    np.testing.assert_allclose(probabilities, rows.filter(like="prob_"), atol=1e-4)
