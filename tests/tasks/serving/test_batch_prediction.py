"""A table of labels: a row an image, the same bytes however often it was killed."""

import csv
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from data.errors import DataError
from tasks.errors import TaskError
from tasks.serving import batch_prediction as predicting
from tasks.serving.batch_prediction import predict
from tasks.serving.loading import loaded
from tasks.serving.model import DESCRIPTION, ServedModel, build_served_model
from tests.servers import ObjectStore, wait_until
from tests.tasks.conftest import CLASSES, SIZE, publish, uri, write_classifier

COLUMNS = ["id", "path", "label", "guess", "confidence", "abstained", "reason"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    write_classifier(folder, seed=3)
    description = json.loads((folder / "learners.json").read_text())
    return build_served_model(description, folder / "classifiers" / "pretrained-0.safetensors")


def write_images(folder, count=30):
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(count):
        pixels = random.integers(0, 256, (SIZE + number % 5, SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")
    return folder


@pytest.fixture
def images(tmp_path):
    return write_images(tmp_path / "images")


def run(model, place, output, key="model", batch_size=8, probabilities=False):
    told = []
    found = predict(
        model, "tiny@1", key, str(place), output, batch_size, probabilities,
        lambda *progress: told.append(progress),
    )  # fmt: skip
    assert os.listdir(output.parent) == [output.name], "nothing is left beside the output"
    return found, told


def output_in(tmp_path, name="out", file="labels.parquet"):
    (tmp_path / name).mkdir()
    return tmp_path / name / file


def test_rows_are_the_served_models_answers(model, images, tmp_path):
    output = output_in(tmp_path)
    found, told = run(model, images, output, probabilities=True)
    table = pq.read_table(output)
    assert table.column_names == [
        *COLUMNS[:-1], *(f"prob_{name}" for name in CLASSES), "reason",
    ]  # fmt: skip
    assert table.schema.metadata[b"instar.model"] == b"tiny@1"
    rows = table.to_pandas()
    assert rows["path"].tolist() == sorted(path.name for path in images.iterdir())
    served = model.predict([str(images / name) for name in rows["path"]])
    for column in ("label", "guess", "abstained"):
        assert rows[column].tolist() == served[column].tolist()
    for column in ("confidence", *(f"prob_{name}" for name in CLASSES)):
        np.testing.assert_allclose(rows[column], served[column], atol=1e-6)
    assert rows["reason"].isna().all()
    assert (found.images, found.labelled, found.unreadable) == (30, 30, 0)
    assert found.labels == {k: int(v) for k, v in served["label"].value_counts().items()}
    assert told[0] == ("looking for images", 0, 1) and told[-1] == ("classifying", 30, 30)
    assert [done for _, done, _ in told[1:]] == [0, 8, 16, 24, 30]


def test_unreadable_images_are_rows_with_a_reason_and_no_label(model, images, tmp_path):
    (images / "0003.png").write_bytes(b"no image")
    (images / "0004.png").write_bytes((images / "0004.png").read_bytes()[:60])
    (images / "0005.png").unlink()
    (images / "0005.png").symlink_to("/etc/passwd")
    (images / "notes.txt").write_text("passed over")
    output = output_in(tmp_path)
    found, _ = run(model, images, output)
    rows = pq.read_table(output).to_pandas().set_index("path")
    bad = rows[rows["reason"].notna()]
    assert bad.index.tolist() == ["0003.png", "0004.png", "0005.png"]
    assert "not an image" in bad["reason"].iloc[0] and "leads out" in bad["reason"].iloc[2]
    assert bad[["label", "guess", "confidence", "abstained"]].isna().all(axis=None)
    assert (found.images, found.unreadable, found.labelled) == (30, 3, 27)
    assert found.passed_over == {"files that are no images, by name and by content": 1}


@pytest.mark.parametrize("name", ["labels.csv", "LABELS.CSV"])
def test_csv_has_the_rows_that_parquet_has(model, images, tmp_path, name):
    (images / '0001, "new".png').write_bytes((images / "0001.png").read_bytes())
    (images / "=1+1.png").write_bytes((images / "0002.png").read_bytes())
    (images / "broken.png").write_bytes(b"no image")
    named = ServedModel(
        model.classifier, ["bag, old", 'the "coat"', "NA"], SIZE, 1, {"threshold": 0.4}
    )
    parquet, output = output_in(tmp_path, "one"), output_in(tmp_path, "two", name)
    run(named, images, parquet, probabilities=True)
    run(named, images, output, probabilities=True)
    expected = pq.read_table(parquet).to_pylist()
    with output.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [list(row) for row in expected]
    kinds = {"confidence": np.float32, "abstained": {"true": True, "false": False}.get}
    for row, other in zip(rows, expected, strict=True):
        for column, text in row.items():
            kind = kinds.get(column, np.float32 if column.startswith("prob_") else str)
            assert (kind(text) if text else None) == other[column], column


@pytest.mark.parametrize("name", ["labels.parquet", "LABELS.PARQUET"])
def test_parquet_is_what_it_says(model, images, tmp_path, name):
    output = output_in(tmp_path, "one", name)
    run(model, images, output)
    assert output.read_bytes()[:4] == b"PAR1"


def test_photos_of_a_format_that_is_not_read_have_a_row_each(model, images, tmp_path):
    for number in range(9):
        (images / f"IMG_{number}.HEIC").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    found, _ = run(model, images, output_in(tmp_path))
    rows = pq.read_table(found.output).to_pandas().set_index("path")
    assert (found.images, found.unreadable, found.passed_over) == (39, 9, {})
    assert found.reasons == {"a HEIC photo, which is not read": 9}
    assert "convert it to PNG or JPEG" in rows.loc["IMG_8.HEIC", "reason"]


def test_a_batch_of_nothing_readable_is_predicted(model, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"no image")
    assert run(model, folder, output_in(tmp_path))[0].unreadable == 1


def test_withheld_labels_are_null_and_the_guess_is_kept(model, images, tmp_path):
    output = output_in(tmp_path)
    run(model, images, output)
    sure = pq.read_table(output).to_pandas()
    threshold = float(sure["confidence"].median())
    shy = ServedModel(model.classifier, model.classes, SIZE, 1, {"threshold": threshold})
    found, _ = run(shy, images, output, key="shy")
    rows = pq.read_table(output).to_pandas()
    low = sure["confidence"] < threshold
    assert found.abstained == low.sum() > 0
    assert rows["abstained"].tolist() == low.tolist() == rows["label"].isna().tolist()
    assert rows["guess"].tolist() == sure["guess"].tolist()


def cut_off(monkeypatch, model, place, output, after=2, **changes):
    """A prediction that ends after so many batches."""
    classify, done = predicting._classify, []

    def classify_some(*arguments):
        if len(done) == after:
            raise InterruptedError
        done.append(1)
        return classify(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(predicting, "_classify", classify_some)
        with pytest.raises(InterruptedError):
            run(model, place, output, **changes)
    assert not output.exists()


@pytest.mark.parametrize("file", ["labels.parquet", "labels.csv"])
def test_prediction_that_was_cut_off_goes_on_to_the_same_bytes(
    monkeypatch, model, images, tmp_path, file
):
    whole, output = output_in(tmp_path, "whole", file), output_in(tmp_path, file=file)
    run(model, images, whole)
    cut_off(monkeypatch, model, images, output)
    found, told = run(model, images, output)
    assert found.resumed == 16 and told[1] == ("classifying", 16, 30)
    assert output.read_bytes() == whole.read_bytes()


def test_a_kill_at_the_very_end_leaves_nothing_but_the_parts(monkeypatch, model, images, tmp_path):
    output, seen, fsync = output_in(tmp_path), [], os.fsync

    def look_around(file):
        seen.append(os.listdir(output.parent))
        fsync(file)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", look_around)
        run(model, images, output)
    assert seen[-1] == [".labels.parquet.parts"]


def test_damaged_part_is_made_again(monkeypatch, model, images, tmp_path):
    whole, output = output_in(tmp_path, "whole"), output_in(tmp_path)
    run(model, images, whole)
    cut_off(monkeypatch, model, images, output)
    part = min(output.parent.rglob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-9])
    found, _ = run(model, images, output)
    assert found.resumed == 8
    assert output.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("other", ["model", "images", "batch size", "columns"])
def test_parts_of_another_prediction_are_never_taken(monkeypatch, model, images, tmp_path, other):
    output = output_in(tmp_path)
    cut_off(monkeypatch, model, images, output)
    changes = {
        "model": {"key": "another"},
        "batch size": {"batch_size": 7},
        "columns": {"probabilities": True},
    }.get(other, {})
    if other == "images":
        Image.new("L", (SIZE, SIZE)).save(images / "0000.png")
    assert run(model, images, output, **changes)[0].resumed == 0


def all_readable(store):
    client = store.client()
    try:
        for key in store.objects("new/"):
            client.get_object(Bucket=store.BUCKET, Key=key)["Body"].read()
    except client.exceptions.ClientError:
        return False  # the volumes are up later than the list of them
    return True


@pytest.mark.slow
def test_store_that_goes_away_ends_the_prediction_and_loses_no_image(
    model, images, tmp_path, monkeypatch
):
    monkeypatch.setattr("data.sources.s3.TRIES", 1)
    whole, output = output_in(tmp_path, "whole"), output_in(tmp_path)
    run(model, images, whole)
    with ObjectStore(tmp_path / "weed") as store:
        for name, value in store.reached.items():
            monkeypatch.setenv(name, value)
        place = store.upload(images, "new")

        def stop_it(_, done, total):
            if done == 16:
                store.kill()

        with pytest.raises(DataError, match="run the same command again"):
            predict(model, "tiny@1", "model", place, output, 8, False, stop_it)
        assert not output.exists()
        store.start()
        wait_until(lambda: all_readable(store))
        assert run(model, place, output)[0].resumed == 16
    assert output.read_bytes() == whole.read_bytes()


def test_hidden_neighbours_of_the_output_stay(model, images, tmp_path):
    """Cleaning up must not reach beyond the parts."""
    output = output_in(tmp_path)
    (output.parent / ".mine").mkdir()
    predict(model, "tiny@1", "key", str(images), output, 8, False, lambda *_: None)
    assert sorted(os.listdir(output.parent)) == [".mine", "labels.parquet"]


@pytest.fixture
def registered(project):
    from tasks.registry.registration import register

    publish(project, "run-1")
    return project, register(project, "run-1", uri(project), pushed=True)


def test_version_is_found_by_alias_and_number_and_needs_no_checkout(
    registered, monkeypatch, tmp_path
):
    project, _ = registered
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri(project))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with loaded("tiny@challenger") as one, loaded("tiny@1") as other:
        assert one.version == other.version == "tiny@1" and one.key == other.key
        assert one.model.classes == CLASSES
    with pytest.raises(TaskError, match="has no production"), loaded("tiny@production"):
        pass
    assert os.listdir() == []


def test_without_an_address_no_database_is_made(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TaskError, match="set MLFLOW_TRACKING_URI"), loaded("tiny@1"):
        pass
    assert os.listdir() == []


def test_weights_that_were_exchanged_in_the_store_are_refused(registered):
    project, _ = registered
    (weights,) = (project / "mlartifacts").rglob("data/classifier/*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    changed = pytest.raises(TaskError, match="not those that were registered")
    with changed, loaded("tiny@1", uri(project)):
        pass


@pytest.mark.parametrize("content", ["{", "{}", "[]", '{"encoder": {"name": 3}}'])
def test_a_description_that_is_damaged_is_named(registered, content):
    project, _ = registered
    (described,) = (project / "mlartifacts").rglob(f"data/classifier/{DESCRIPTION}")
    described.write_text(content)
    with pytest.raises(TaskError, match="tiny@1 .* not all there and whole"):
        loaded("tiny@1", uri(project)).__enter__()


def test_description_without_abstention_is_of_a_version_that_never_abstains(registered):
    with loaded("tiny@1", uri(registered[0])) as version:
        assert json.loads((version.folder / DESCRIPTION).read_text())["abstention"] is None
        assert version.model.abstention is None


@pytest.mark.slow
def test_killed_command_goes_on_to_the_same_bytes(registered, tmp_path):
    project, _ = registered
    place = write_images(tmp_path / "many", 400)
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": uri(project), "PYTHONPATH": os.getcwd(),
    }  # fmt: skip

    def command(name):
        (tmp_path / name).mkdir(exist_ok=True)
        return subprocess.Popen(
            [
                sys.executable, "-m", "flows.cli", "predict", "tiny@1", "--input", str(place),
                "--output", "labels.parquet", "--batch-size", "4", "--json",
            ],
            cwd=tmp_path / name, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    first = command("killed")
    until = time.monotonic() + 120
    while len(list((tmp_path / "killed").rglob("*.parquet"))) < 20:
        assert first.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert not (tmp_path / "killed" / "labels.parquet").exists()
    answers = {}
    for name in ("killed", "whole"):
        out, said = (process := command(name)).communicate()
        assert process.returncode == 0, said.decode()
        answers[name] = json.loads(out)
    assert 80 <= answers["killed"]["resumed"] < 400 and answers["whole"]["resumed"] == 0
    assert os.listdir(tmp_path / "killed") == ["labels.parquet"]
    killed, whole = (tmp_path / name / "labels.parquet" for name in ("killed", "whole"))
    assert killed.read_bytes() == whole.read_bytes()
