"""Images of formats that are not read are known, counted and explained, never passed over."""

import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.images import formats
from data.images.decoding import canvases
from data.images.formats import START_BYTES, unread_by_content, unread_by_name
from data.images.reading import decode, looks_like_image
from data.packing.pack import pack
from data.sources.inference_inputs import Incoming
from data.sources.params import DataParams
from data.store.packed_store import PackedStore


def brands(major, *others):
    """The first box of an ISO media file: HEIC, AVIF, CR3, MP4."""
    names = b"".join([major, b"\0\0\0\0", *others])
    return struct.pack(">I", 8 + len(names)) + b"ftyp" + names + b"\0\0\0\x08free"


def saved(kind):
    """A real file of a format that Pillow can write."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "teal").save(file, kind)
    return file.getvalue()


def tiff(tags, size=(8, 8)):
    """A TIFF with more tags than Pillow gives it, as raw photos have."""
    file = io.BytesIO()
    Image.new("RGB", size, "teal").save(file, "TIFF", tiffinfo=tags)
    return file.getvalue()


HEIC = brands(b"heic", b"mif1", b"heic", b"miaf")
CONTENTS = {
    "a HEIC photo": [
        HEIC, brands(b"heix", b"mif1"), brands(b"mif1", b"heic"), brands(b"msf1", b"hevc"),
        brands(b"hevc"), brands(b"heis"), brands(b"mif2"),
    ],
    "an AVIF image": [
        saved("AVIF"), brands(b"avif"), brands(b"avis", b"msf1"), brands(b"mif1", b"miaf", b"avif"),
    ],
    "a JPEG XL image": [b"\xff\x0a\x7a\x43", bytes.fromhex("0000000c4a584c200d0a870a") + b"\0"],
    "a JPEG 2000 image": [saved("JPEG2000"), b"\xff\x4f\xff\x51\x00\x2f"],
    "a JPEG XR image": [b"II\xbc\x01\x20\0\0\0"],
    "a JPEG-LS image": [b"\xff\xd8\xff\xf7\x00\x0b\x08"],
    "a camera's raw photo": [
        b"II*\0\x10\0\0\0CR\x02\0", brands(b"crx ", b"isom"), b"II\x1a\0\0\0HEAPCCDR",
        b"FUJIFILMCCD-RAW 0201", b"IIRO\x08\0\0\0", b"MMOR\0\0\0\x08", b"IIU\0\x18\0\0\0",
        b"FOVb\0\0\x02\0", b"\0MRM\0\0\x01\0",
        tiff({50706: b"\1\4\0\0"}),  # DNG
        tiff({254: 1, 330: 8}),  # NEF, ARW: the first image is a preview
        tiff({262: 32803}),  # the sensor's own values
    ],
    "a Photoshop file": [b"8BPS\0\1"],
    "a GIMP file": [b"gimp xcf v011\0"],
    "an SVG drawing": [
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- drawn by hand -->\n<!DOCTYPE svg>\n<svg/>",
    ],
    "an EPS drawing": [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\xc5\xd0\xd3\xc6\x20\0\0\0"],
    "an OpenEXR image": [b"\x76\x2f\x31\x01\x02\0\0\0"],
    "a Radiance HDR image": [b"#?RADIANCE\n"],
    "a QOI image": [saved("QOI")],
    "a DDS texture": [saved("DDS")],
    "a DICOM image": [bytes(128) + b"DICM\2\0\0\0UL"],
    "a NIfTI image": [struct.pack("<i", 348) + bytes(340) + b"n+1\0"],
    "an NRRD image": [b"NRRD0004\n"],
    "a FITS image": [b"SIMPLE  =                    T"],
}  # fmt: skip
KNOWN = [(what, content) for what, contents in CONTENTS.items() for content in contents]


@pytest.mark.parametrize(
    ("what", "content"), KNOWN, ids=[f"{w} {n}" for n, (w, _) in enumerate(KNOWN)]
)
@pytest.mark.parametrize("name", ["photo.jpg", "nameless", "SCAN.TIF"])
def test_content_tells_the_format_and_the_remedy_whatever_the_name(what, content, name):
    assert looks_like_image(content[:START_BYTES])
    with pytest.raises(DataError) as refused:
        decode(content, name)
    assert str(refused.value).startswith(f"{what}, which is not read: ")
    assert any(verb in str(refused.value) for verb in ("convert it to PNG", "develop it", "save"))


@pytest.mark.parametrize(
    "name",
    [
        "IMG_1.heic", "IMG_1.HEIC", "a.heif", "a.HIF", "a.avif", "a.jxl", "a.jp2", "a.J2K", "a.jpx",
        "a.cr2", "a.CR3", "a.nef", "a.ARW", "a.dng", "a.raf", "a.orf", "a.rw2", "a.pef", "a.srw",
        "a.psd", "a.exr", "a.svg", "a.dcm", "a.nii.gz", "a.tga", "a.ico", "a.pcx", "a.fits",
    ],
)  # fmt: skip
def test_name_tells_the_format_where_the_content_does_not(name):
    with pytest.raises(DataError, match="^by its name an? .*, which is not read: "):
        decode(b"\x01\x02 nobody knows what this is", name)


def test_image_that_is_read_is_read_under_any_name():
    for kind in ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP"):
        assert decode(saved(kind), "photo.heic").size == (16, 16)
    assert decode(saved("JPEG"), "photo.nef").size == (16, 16)


def test_tiff_of_a_raw_photos_name_is_not_read_by_its_preview():
    with pytest.raises(DataError, match="a camera's raw photo"):
        decode(saved("TIFF"), "photo.NEF")


@pytest.mark.parametrize(
    "content",
    [
        b"", b"plain words", b"%PDF-1.7\n", b"%!PS-Adobe-3.0\n%%Pages: 9\n", b"PK\3\4",
        b"<?xml?><a/>", b"<?a?>" * 200, b"<!---->" * 140, b"<html><body><svg/></body></html>",
        b"DDS is a format", b"icns are icons",
        brands(b"mp42", b"isom"), brands(b"qt  ", b"qt  "), brands(b"isom", b"mif1"),
        b"\x93NUMPY\1\0", b"\x1f\x8b\x08\0",
    ],
)  # fmt: skip
def test_documents_videos_and_arrays_are_no_images(content):
    assert unread_by_content(content) is None and not looks_like_image(content)


@pytest.mark.parametrize(
    "name", ["a.pdf", "a.mp4", "a.mov", "a.npy", "a.txt", "a.json", "a.hdr", "heic"]
)
def test_names_of_other_files_are_not_taken_for_images(name):
    assert unread_by_name(name) is None


def test_every_format_has_endings_of_its_own_and_a_remedy():
    endings = [ending for format in formats.FORMATS for ending in format.endings]
    assert len(endings) == len(set(endings))
    assert all(ending == ending.lower() and ending.startswith(".") for ending in endings)
    assert all(format.remedy for format in formats.FORMATS)


def write_set(root, name, content, good=6, bad=54, seed=0):
    """Two classes of 60: so many readable images, the others of the content."""
    random = np.random.default_rng(seed)
    for label in ("cat", "dog"):
        (root / label).mkdir(parents=True)
        for number in range(good):
            pixels = random.integers(0, 256, (9, 9, 3), np.uint8)
            Image.fromarray(pixels).save(root / label / f"{number}.png")
        for number in range(bad):
            (root / label / name.format(number)).write_bytes(content + bytes([number]))
    return root


def archived(root, kind):
    if kind == "folder":
        return root
    path = root.with_suffix(f".{kind}")
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            archive.add(root, "")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(path for path in root.rglob("*") if path.is_file()):
                archive.write(file, file.relative_to(root))
    return path


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("IMG_{}.HEIC", HEIC, "a HEIC photo, which is not read (108); convert it to PNG or JPEG"),
        ("IMG_{}", HEIC, "a HEIC photo, which is not read (108); convert it to PNG or JPEG"),
        ("{}.nef", b"?", "by its name a camera's raw photo, which is not read (108); develop it"),
        ("{}.dcm", CONTENTS["a DICOM image"][0], "a DICOM image, which is not read (108); save "),
    ],
)  # fmt: skip
def test_a_set_of_them_ends_before_any_training(tmp_path, kind, name, content, said):
    root = archived(write_set(tmp_path / "set", name, content), kind)
    with pytest.raises(DataError) as refused:
        pack(DataParams(source="folder", path=str(root), size=8, channels=3), tmp_path / "out")
    assert "108 of 120 images (90%) cannot be used" in str(refused.value)
    assert said in str(refused.value)


def test_a_few_of_them_are_quarantined_with_the_reason(tmp_path):
    root = write_set(tmp_path / "set", "{}.heic", HEIC, good=30, bad=2)
    summary = pack(
        DataParams(source="folder", path=str(root), size=8, channels=3), tmp_path / "out"
    )
    assert (summary.quarantined, summary.passed_over) == (4, {})
    assert summary.reasons == {"a HEIC photo, which is not read": 4}
    index = PackedStore.open(tmp_path / "out" / "store").index
    assert index.set_index("source")["reason"]["cat/0.heic"] == formats.HEIC.reason


@pytest.mark.parametrize("split", ["", "train"])
def test_a_class_of_nothing_else_is_named_with_the_reason(tmp_path, split):
    root = write_set(tmp_path / "set" / split, "{}.heic", HEIC, good=60, bad=0)
    if split:
        write_set(tmp_path / "set" / "test", "{}.heic", HEIC, good=1, bad=0)
    (root / "emu").mkdir()
    for number in range(3):
        (root / "emu" / f"{number}.avif").write_bytes(saved("AVIF"))
    with pytest.raises(DataError, match=r"class 'emu' has .* usable .*an AVIF image, .*convert it"):
        pack(
            DataParams(source="folder", path=str(tmp_path / "set"), size=8, channels=3),
            tmp_path / "out",
        )


@pytest.mark.parametrize("name", ["logo.svg", "cover.psd", "scan.heic", "favicon.ico"])
def test_a_file_beside_the_folders_does_not_change_what_they_mean(tmp_path, name):
    root = write_set(tmp_path / "outer" / "train", "{}", b"", good=12, bad=0)
    write_set(tmp_path / "outer" / "test", "{}", b"", good=2, bad=0, seed=1)
    params = DataParams(source="folder", path=str(tmp_path), size=8, channels=3)
    before = pack(params, tmp_path / ".out")
    (root.parent / name).write_bytes(b"?")
    after = pack(params, tmp_path / ".out")
    assert (after.train, after.test, after.quarantined) == (before.train, before.test, 1)
    assert before.test > 0 and before.classes == after.classes == ["cat", "dog"]


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_images_to_be_classified_have_a_row_each(tmp_path, kind):
    root = archived(write_set(tmp_path / "new", "IMG_{}.heic", HEIC, good=1, bad=3), kind)
    images = Incoming(str(root))
    assert images.total == 8 and not images.passed_over
    found = {canvas.sample.source: canvas.reason for canvas in canvases(images.samples(0, 8), 8, 3)}
    images.close()
    assert found["cat/0.png"] is None
    assert found["dog/IMG_2.heic"] == formats.HEIC.reason


@pytest.mark.parametrize("name", ["a.pbm", "a.pnm", "a.dib", "a.jfif", "a.jpe", "nameless"])
def test_other_names_of_formats_that_are_read_are_not_passed_over(tmp_path, name):
    kinds = {"a.pbm": "PPM", "a.pnm": "PPM", "a.dib": "BMP", "nameless": "TIFF"}
    (tmp_path / name).write_bytes(saved(kinds.get(name, "JPEG")))
    images = Incoming(str(tmp_path))
    (found,) = canvases(images.samples(0, 9), 8, 3)
    assert found.reason is None
