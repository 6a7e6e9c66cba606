"""Images in a bucket of a real S3 server: the same as in a folder, or a sentence why not."""

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.sources.inference_inputs import Incoming
from tests.servers import ObjectStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with ObjectStore(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture(autouse=True)
def _keys(store, monkeypatch):
    for name, value in store.reached.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for number, name in enumerate(["b/2.png", "b/10.png", "a.png", "nameless", "x y ü.png"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), number, np.uint8)).save(folder / name, "PNG")
    (folder / "notes.txt").write_text("no image")
    (folder / "broken.png").write_bytes(b"")
    return folder


def test_bucket_gives_what_the_folder_gives(store, images):
    here, there = Incoming(str(images)), Incoming(store.upload(images, "set one"))
    ours, theirs = list(here.samples(0, 99)), list(there.samples(0, 99))
    assert [sample.source for sample in theirs] == [sample.source for sample in ours]
    assert len(theirs) == 6 and there.passed_over == here.passed_over
    assert [sample.content() for sample in theirs] == [sample.content() for sample in ours]
    there.require_answers()


def test_fingerprint_of_a_bucket_changes_with_an_object(store, images):
    place = store.upload(images, "changing")
    before = Incoming(place).fingerprint
    assert Incoming(place).fingerprint == before
    key = "changing/a.png"
    store.client().put_object(Bucket=store.BUCKET, Key=key, Body=(images / "nameless").read_bytes())
    assert Incoming(place).fingerprint != before


def test_wrong_keys_and_missing_buckets_are_explained_without_the_secret(store, monkeypatch):
    with pytest.raises(DataError, match="bucket nowhere does not exist"):
        Incoming("s3://nowhere/images")
    with pytest.raises(DataError, match="no images found"):
        Incoming(f"s3://{store.BUCKET}/empty")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(DataError, match="cannot be read .*check AWS_ENDPOINT_URL_S3") as refused:
        Incoming(f"s3://{store.BUCKET}/images")
    assert "not-the-secret" not in str(refused.value)


def test_a_store_that_goes_away_is_no_fault_of_the_images(images, tmp_path, monkeypatch):
    monkeypatch.setattr("data.sources.s3.TRIES", 1)
    with ObjectStore(tmp_path / "weed") as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.address)
        there = Incoming(server.upload(images, "set"))
    sample = next(there.samples(0, 1))
    with pytest.raises(Exception):  # noqa: B017, PT011
        sample.content()
    with pytest.raises(DataError, match="run the same command again"):
        there.require_answers()


def test_an_object_that_vanishes_is_one_image_lost(store, images):
    there = Incoming(store.upload(images, "vanishing"))
    store.client().delete_object(Bucket=store.BUCKET, Key="vanishing/a.png")
    sample = next(there.samples(0, 1))
    with pytest.raises(FileNotFoundError):
        sample.content()
    there.require_answers()
