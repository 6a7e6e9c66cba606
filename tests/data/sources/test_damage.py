"""Archives that are damaged or odd end in one sentence, never in a crash or a silent loss."""

import io
import tarfile
import zipfile

import numpy as np
import pytest

from data.errors import DataError
from data.packing.pack import pack
from data.sources import npz
from data.sources.params import DataParams

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 8, 8), np.uint8)
LABELS = np.arange(12) % 2


def pack_npz(path):
    params = DataParams(source="npz", path=str(path), size=8, channels=1)
    return pack(params, path.parent / "out")


def save(path, **changes):
    arrays = {"train_images": IMAGES, "train_labels": LABELS} | changes
    np.savez_compressed(path, **arrays)
    return path


def header(shape, descr="|u1"):
    """A .npy file that claims a shape and holds nothing."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train_images": IMAGES[:0], "train_labels": LABELS[:0]}, "train_images is empty"),
        ({"test_images": IMAGES[:0], "test_labels": LABELS[:0]}, "test_images is empty"),
        ({"classes": ["a", "a"]}, "names 'a' more than once"),
        (
            {"classes": np.array([0x110000, 97], "<u4").view("<U1")},
            "classes holds what is not text",
        ),
        (
            {"classes": np.array([0x110000, 97], ">u4").view(">U1")},
            "classes holds what is not text",
        ),
        ({"train_labels": np.where(LABELS, np.nan, 0.0)}, "float64 .*must hold one whole number"),
        ({"train_labels": LABELS[:-1]}, "one whole number for each of the 12"),
        ({"train_labels": LABELS.astype(bool)}, "bool .*must hold one whole number"),
        ({"classes": ["a"], "train_labels": LABELS * 0}, "has 1 class; .*at least two"),
        ({"train_labels": LABELS * 0}, "has 1 class; .*at least two"),
        (
            {"train_labels": np.arange(12) % 3 - 1},
            r"train_labels\[0\] is -1.*into unlabelled_images",
        ),
        ({"train_images": np.asfortranarray(IMAGES)}, "Fortran order"),
        ({"train_images": IMAGES.ravel()}, r"train_images is \(768,\); save it as"),
    ],
)
def test_an_npz_that_makes_no_sense_says_what_to_mend(tmp_path, changes, said):
    with pytest.raises(DataError, match=said):
        pack_npz(save(tmp_path / "a.npz", **changes))


def test_class_names_of_any_type_become_printable_text(tmp_path):
    for names in (
        np.array([b"\xff", b"caf\xc3\xa9"]),
        np.array(["\ud800", "a\n"]),
        np.array([1.5, 2]),
    ):
        summary = pack_npz(save(tmp_path / "a.npz", classes=names))
        assert all(name.isprintable() and name.encode() for name in summary.classes)
    pack_npz(save(tmp_path / "a.npz", classes=np.array([b"\xff", b"caf\xc3\xa9"])))
    assert pack_npz(tmp_path / "a.npz").classes == [r"\xff", "café"]


@pytest.mark.parametrize(
    ("shape", "descr", "said"),
    [
        ((-12, 8, 8), "|u1", "claims the shape"),
        ((12, -8, -8), "|u1", "claims the shape"),
        ((12, 8, 8), "<U0", "damaged|no pixels"),
        ((12, 0, 8), "|u1", "is empty"),
        ((12, 8, 8), "|O", "Python objects"),
        ((12, 8, 8), [("a", "|u1")], "values that are no pixels"),
    ],
)
def test_headers_of_no_images_are_explained(tmp_path, shape, descr, said):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", header(shape, descr) + bytes(12 * 64))
        archive.writestr("train_labels.npy", header((12,), "<i8") + LABELS.astype("<i8").tobytes())
    with pytest.raises(DataError, match=said):
        pack_npz(path)


@pytest.mark.parametrize("key", ["train_images", "train_labels"])
def test_flipped_bytes_in_a_compressed_array_are_explained(tmp_path, key):
    path = save(tmp_path / "a.npz", train_labels=np.random.default_rng(0).permutation(LABELS))
    with zipfile.ZipFile(path) as archive:
        member = archive.getinfo(f"{key}.npy")
    # A local header has 30 bytes, the name and, as numpy writes it, 20 more.
    start = member.header_offset + 30 + len(member.filename) + 20
    for position in range(start, start + member.compress_size, 3):
        content = bytearray(path.read_bytes())
        content[position] ^= 0xFF
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(DataError, match=rf"bad\.npz: {key} is (damaged|cut short)"):
            pack_npz(tmp_path / "bad.npz")


@pytest.mark.parametrize("key", ["train_images", "train_labels"])
def test_arrays_are_held_to_their_checksums(tmp_path, key):
    # So compressible that the last bytes come out before the stream's end is seen.
    many = np.arange(9000) % 2
    path = save(tmp_path / "a.npz", train_images=many.repeat(64).reshape(-1, 8, 8).astype(np.uint8),
                train_labels=many)  # fmt: skip
    with zipfile.ZipFile(path) as archive:
        checksum = archive.getinfo(f"{key}.npy").CRC.to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(checksum, bytes(4)))
    with pytest.raises(DataError, match=f"{key} is damaged .*CRC"):
        pack_npz(path)


@pytest.mark.parametrize(
    ("images", "labels", "said"),
    [
        ((12, 8, 8), (10**15,), "one whole number for each of the 12"),
        ((10**15, 8, 8), (10**15,), "train_labels would need 8000000000000000 bytes at once"),
        ((1, 10**6, 10**6), (1,), "cut short|would need"),
        ((12, 8, 8), (12,), "train_labels is cut short"),
    ],
)
def test_a_header_that_claims_too_much_is_refused_before_reading(tmp_path, images, labels, said):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("train_images.npy", header(images))
        archive.writestr("train_labels.npy", header(labels, "<i8"))
    with pytest.raises(DataError, match=said):
        pack_npz(path)


def test_an_array_that_cannot_be_inflated_in_parts_is_refused(tmp_path):
    path = save(tmp_path / "set.npz")
    with zipfile.ZipFile(path) as archive:
        arrays = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        for name, content in arrays.items():
            archive.writestr(name, content)
    with pytest.raises(DataError, match="packed by another method than deflate; save it again"):
        pack_npz(path)


def test_an_image_larger_than_the_limit_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "BYTES_LIMIT", 99)
    with pytest.raises(DataError, match="train_images would need 800 bytes at once"):
        pack_npz(save(tmp_path / "a.npz", train_images=np.zeros((2, 20, 20), np.uint8),
                      train_labels=np.arange(2, dtype=np.uint8)))  # fmt: skip


def folder_tar(make_folder, path):
    with tarfile.open(path, "w") as archive:
        archive.add(make_folder(), "")
    return path


def test_a_zip_with_a_broken_directory_is_explained(make_folder, pack_folder, tmp_path):
    root, path = make_folder(), tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in root.rglob("*.png"):
            archive.write(file, file.relative_to(root))
    content = path.read_bytes()
    directory = content.index(b"PK\x01\x02")
    path.write_bytes(content[:directory] + b"??" + content[directory + 2 :])
    with pytest.raises(DataError, match=r"set\.zip is damaged .*; copy or pack it again"):
        pack_folder(path)


def test_a_tar_with_a_broken_header_loses_no_image_in_silence(make_folder, pack_folder, tmp_path):
    path = folder_tar(make_folder, tmp_path / "set.tar")
    content = bytearray(path.read_bytes())
    content[content.index(b"bee/3.png") + 148] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"set\.tar is damaged .*; copy or pack it again"):
        pack_folder(path)


def test_a_tar_that_was_cut_short_is_explained(make_folder, pack_folder, tmp_path):
    path = folder_tar(make_folder, tmp_path / "set.tar")
    content = path.read_bytes()
    last = content.rindex(b"cow/")
    for length in (last, last + 100, last + 600):
        path.write_bytes(content[:length])
        with pytest.raises(DataError, match=r"set\.tar is damaged"):
            pack_folder(path)


def test_a_compressed_tar_says_to_leave_the_compression_away(make_folder, pack_folder, tmp_path):
    with tarfile.open(tmp_path / "set.tar.gz", "w:gz") as archive:
        archive.add(make_folder(), "")
    with pytest.raises(DataError, match="without compression"):
        pack_folder(tmp_path / "set.tar.gz")


def test_a_tar_whose_headers_nest_deeper_than_recursion_is_explained(pack_folder, tmp_path):
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 5
    record = header.tobuf(tarfile.GNU_FORMAT) + b"name".ljust(512, b"\0")
    (tmp_path / "set.tar").write_bytes(tarfile.TarInfo("a").tobuf() + record * 3000)
    with pytest.raises(DataError, match=r"set\.tar is damaged .*recursion"):
        pack_folder(tmp_path / "set.tar")
