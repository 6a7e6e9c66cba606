"""Images to be classified: all of them, in one order, whatever lies between them."""

import io
import os
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.samples import id_of
from data.sources.inference_inputs import Incoming


def png(value):
    content = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(content, "PNG")
    return content.getvalue()


FILES = {
    "b/10.png": png(10),
    "a.png": png(20),
    "b/2.png": png(30),
    "nameless": png(40),
    "odd\nname.png": png(50),
    "broken.png": b"no image",
    "notes.txt": b"no image either",
    ".hidden.png": png(60),
}
NAMES = ["a.png", "b/10.png", "b/2.png", "broken.png", "nameless", "odd\\x0aname.png"]


def write(folder):
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(params=["folder", "tar", "zip"])
def place(request, tmp_path):
    folder = write(tmp_path / "images")
    if request.param == "folder":
        return folder
    path = tmp_path / f"images.{request.param}"
    if request.param == "tar":
        with tarfile.open(path, "w") as tar:
            tar.add(folder, "")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in FILES.items():
                archive.writestr(name, content)
    return path


def test_all_images_come_in_the_order_of_their_names(place):
    images = Incoming(str(place))
    assert images.total == 6
    samples = list(images.samples(0, 99))
    assert [sample.source for sample in samples] == NAMES
    assert samples[1].content() == FILES["b/10.png"]
    assert [sample.source for sample in images.samples(2, 4)] == NAMES[2:4]
    assert dict(images.passed_over) == {
        "files that are no images, by name and by content": 1,
        "hidden files": 1,
    }
    images.close()


def test_id_is_the_one_that_prepare_gives(tmp_path):
    from data.packing.ledger import Ledger
    from data.samples import Sample

    ledger = Ledger()
    ledger.refuse(Sample("b/10.png", "train", None, lambda: b""), "whatever")
    assert ledger.ids() == [id_of("b/10.png")]


def test_link_out_of_the_folder_is_given_and_refused(tmp_path):
    folder = write(tmp_path / "images")
    (tmp_path / "secret.png").write_bytes(png(1))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    images = Incoming(str(folder))
    (link,) = [sample for sample in images.samples(0, 99) if sample.source == "link.png"]
    with pytest.raises(DataError, match="a link that leads out of the data"):
        link.content()


@pytest.mark.parametrize("change", ["content", "new", "gone", "renamed"])
def test_fingerprint_changes_with_what_is_there(tmp_path, change):
    folder = write(tmp_path / "images")
    before = Incoming(str(folder)).fingerprint
    assert Incoming(str(folder)).fingerprint == before
    if change == "content":
        (folder / "a.png").write_bytes(png(21))
        os.utime(folder / "a.png", ns=(1, 1))
    elif change == "new":
        (folder / "c.png").write_bytes(png(1))
    elif change == "gone":
        (folder / "a.png").unlink()
    else:
        (folder / "a.png").rename(folder / "aa.png")
    assert Incoming(str(folder)).fingerprint != before


def test_fingerprint_of_an_archive_changes_with_its_file(tmp_path):
    path = tmp_path / "images.zip"
    for value in (1, 2):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr("a.png", png(value))
        os.utime(path, ns=(value, value))
        if value == 1:
            before = Incoming(str(path)).fingerprint
    assert Incoming(str(path)).fingerprint != before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("absent", "--input: .*absent does not exist"),
        ("notes.txt", "--input: .* is not a folder, .zip or uncompressed .tar"),
        ("empty", "--input: no images found in .*empty"),
        ("s3://", "names no bucket"),
    ],
)
def test_place_without_images_is_explained(tmp_path, name, said):
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("no archive")
    place = name if name.startswith("s3:") else str(tmp_path / name)
    with pytest.raises(DataError, match=said):
        Incoming(place)
