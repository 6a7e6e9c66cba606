"""Folders and archives that someone filled who is not trusted: nothing is lost in silence."""

import contextlib
import io
import os
import socket
import stat
import struct
import subprocess
import tarfile
import threading
import tracemalloc
import zipfile

import pytest
from PIL import Image

from data.errors import DataError
from data.packing.pack import pack
from data.sources.directory import Directory
from data.sources.file_names import unescaped
from data.sources.members import LINK_OUT, LINK_TO_FOLDER, LINK_TO_NOTHING, NO_FILE
from data.sources.params import DataParams
from data.store.packed_store import read_test_sources


def reasons(store):
    refused = store.index[store.index["reason"].notna()]
    return dict(zip(refused["source"], refused["reason"], strict=True))


def picture(colour, kind="PNG"):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), colour).save(buffer, kind)
    return buffer.getvalue()


def member(name, content=b"", **header):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in header.items():
        setattr(info, key, value)
    return info, io.BytesIO(content)


def tar_of(root, path, *members):
    with tarfile.open(path, "w", encoding="utf-8", errors="surrogateescape") as archive:
        archive.add(root, "")
        for info, content in members:
            archive.addfile(info, content)
    return path


def zip_of(root, path, *members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root))
        for info, content in members:
            archive.writestr(info, content)
    return path


def test_links_are_read_inside_and_quarantined_where_they_lead_out_or_in_circles(
    make_folder, pack_folder, tmp_path
):
    root = make_folder()
    (tmp_path / "secret.png").write_bytes(picture("red"))
    links = {
        "ant/in.png": "../bee/0.png",
        "ant/out.png": "../../secret.png",
        "ant/absolute.png": str(tmp_path / "secret.png"),
        "ant/broken.png": "nothing.png",
        "ant/loop.png": "loop.png",
        "ant/loop2.png": "loop3.png",
        "ant/loop3.png": "loop2.png",
        "ant/up": "..",
        "around": ".",
        "etc": "/etc",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    store = pack_folder(root)
    found = reasons(store)
    assert len(store) == 18
    # The same pixels under two classes: it was read.
    assert "another label" in found.pop("bee/0.png") and "another label" in found.pop("ant/in.png")
    out = dict.fromkeys(("ant/out.png", "ant/absolute.png", "etc"), LINK_OUT)
    lost = ("ant/broken.png", "ant/loop.png", "ant/loop2.png", "ant/loop3.png")
    folders = dict.fromkeys(("ant/up", "around"), LINK_TO_FOLDER)
    assert found == out | dict.fromkeys(lost, LINK_TO_NOTHING) | folders


@pytest.mark.timeout(60)
def test_pipes_sockets_and_devices_are_never_opened(make_folder, pack_folder):
    root = make_folder()
    os.mkfifo(root / "ant" / "pipe.png")
    os.mkfifo(root / "ant" / "pipe")
    (root / "ant" / "to-pipe.png").symlink_to("pipe.png")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.getcwd()
        os.chdir(root / "bee")  # a socket's path has at most 107 bytes
        listening.bind("socket.png")
        os.chdir(here)
    names = ["ant/pipe.png", "ant/pipe", "ant/to-pipe.png", "bee/socket.png"]
    try:
        os.mknod(root / "cow" / "zero.png", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        names.append("cow/zero.png")
    except PermissionError:
        pass  # only root makes devices
    store = pack_folder(root)
    assert reasons(store) == dict.fromkeys(names, NO_FILE) and len(store) == 18


@pytest.mark.timeout(60)
@pytest.mark.parametrize("source", ["folder", "npz"])
def test_a_pipe_as_the_whole_source_is_refused(tmp_path, source):
    os.mkfifo(tmp_path / "pipe")
    params = DataParams(source=source, path=str(tmp_path / "pipe"), size=8, channels=1)
    with pytest.raises(DataError, match="is neither a file nor a folder"):
        pack(params, tmp_path / "out")


def swapped(monkeypatch, root, swap):
    """Let `swap` happen after the folder was listed and before its files are read."""
    whole = Directory.members

    def members(self):
        listed = list(whole(self))
        swap()
        return iter(listed)

    monkeypatch.setattr(Directory, "members", members)


@pytest.fixture
def unblock():
    """Open a pipe's other end after a while, so that who waits for that goes on and is told of."""
    timers, waited = [], []

    def open_if_read(path):
        # Fails if nobody waits.
        with contextlib.suppress(OSError):
            waited.append(os.open(path, os.O_WRONLY | os.O_NONBLOCK))

    def later(path):
        timers.append(threading.Timer(20, open_if_read, [path]))
        timers[-1].start()

    yield later
    for timer in timers:
        timer.cancel()
    assert not waited, "a pipe was opened and waited on"


def test_files_that_vanish_or_turn_into_something_else_are_quarantined(
    make_folder, pack_folder, tmp_path, monkeypatch, unblock
):
    root = make_folder()
    (tmp_path / "secret.png").write_bytes(picture("red"))

    def swap():
        for name in ("0", "1", "2"):
            (root / "ant" / f"{name}.png").unlink()
        os.mkfifo(root / "ant" / "1.png")
        unblock(root / "ant" / "1.png")
        (root / "ant" / "2.png").symlink_to(tmp_path / "secret.png")

    swapped(monkeypatch, root, swap)
    store = pack_folder(root)
    found = reasons(store)
    assert set(found) == {"ant/0.png", "ant/1.png", "ant/2.png"} and len(store) == 15
    assert found["ant/0.png"] == "cannot be read: No such file or directory"
    assert found["ant/1.png"].startswith("not a file")
    assert found["ant/2.png"] == "cannot be read: Too many levels of symbolic links"


def test_no_reason_tells_where_the_data_lies(make_folder, pack_folder, tmp_path, monkeypatch):
    root = make_folder()
    swapped(monkeypatch, root, (root / "ant" / "0.png").unlink)
    store = pack_folder(root)
    assert str(tmp_path) not in "".join(reasons(store).values())
    assert str(tmp_path).encode() not in (store.path / "index.parquet").read_bytes()


def nest(folder, name, depth):
    """Folders in folders, deeper than a path can name; the descriptor of the innermost."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=here)
        here, above = os.open(name, os.O_RDONLY, dir_fd=here), here
        os.close(above)
    return here


@pytest.fixture
def deep_folder(make_folder):
    root = make_folder()
    yield root
    # Python's own removal recurses.
    subprocess.run(["rm", "-rf", root], check=True)


def test_folders_deeper_than_recursion_are_walked(deep_folder, pack_folder):
    here = nest(deep_folder / "ant", "d", 1200)
    new = os.open("deep.png", os.O_WRONLY | os.O_CREAT, dir_fd=here)
    os.write(new, picture("red"))
    os.close(new)
    os.close(here)
    store = pack_folder(deep_folder)
    assert len(store) == 19 and store.classes == ["ant", "bee", "cow"]


def test_a_folder_too_deep_to_list_is_an_error_and_no_silent_loss(deep_folder, pack_folder):
    os.close(nest(deep_folder / "ant", "d" * 250, 20))
    with pytest.raises(DataError, match="cannot be read .File name too long.*move it away"):
        pack_folder(deep_folder)


def test_names_of_any_bytes_survive_in_table_manifest_and_classes(
    make_folder, pack_folder, tmp_path
):
    root = make_folder()
    names = [b"a b.png", b'"quoted\'.png', b"new\nline.png", b"\xff\xfe.png", b"<b>&amp;.png",
             b"back\\slash.png", "猫 ü.png".encode(), b"\x1b[31mred.png"]  # fmt: skip
    odd = os.fsencode(root) + b"/odd \xe9\n"
    os.mkdir(odd)
    for number, name in enumerate(names):
        with open(odd + b"/" + name, "wb") as file:
            file.write(b"" if number % 2 else picture((number, 9, 9)))
    store = pack_folder(root)
    assert r"odd \xe9\x0a" in store.classes
    hidden = read_test_sources(tmp_path / "out" / "test_sources.parquet")["source"]
    told = [*store.index["source"].dropna(), *hidden]
    back = {os.fsencode(unescaped(name)) for name in told}
    assert {b"odd \xe9\n/" + name for name in names} < back
    assert store.index["id"].is_unique and sum("odd" in name for name in reasons(store)) == 4


def test_names_of_any_bytes_survive_in_a_tar(make_folder, pack_folder, tmp_path):
    name = "ant/" + os.fsdecode(b"\xff\n'.png")
    path = tar_of(make_folder(), tmp_path / "set.tar", member(name, b"no image"))
    assert list(reasons(pack_folder(path))) == [r"ant/\xff\x0a'.png"]


def test_images_count_by_content_where_the_name_says_nothing(make_folder, pack_folder):
    root = make_folder()
    (root / "ant" / "photo").write_bytes(picture("red"))
    (root / "ant" / "photo.jpg_large").write_bytes(picture("blue", "JPEG"))
    (root / "bee" / "jpeg.png").write_bytes(picture("green", "JPEG"))
    (root / "bee" / "png.gif").write_bytes(picture("white", "PNG"))
    (root / "bee" / "notes.txt").write_text("BM is not an image")
    (root / "bee" / "empty").touch()
    (root / ".DS_Store").touch()
    store = pack_folder(root)
    assert len(store) == 22 and not reasons(store)
    assert store.manifest["passed_over"] == {
        "files that are no images, by name and by content": 2,
        "hidden files": 1,
    }


def test_links_in_a_tar_are_resolved_inside_it_only(make_folder, pack_folder, tmp_path):
    link = {"type": tarfile.LNKTYPE}
    symbolic = {"type": tarfile.SYMTYPE}
    path = tar_of(
        make_folder(),
        tmp_path / "set.tar",
        member("new/a.png", picture("red")),
        member("new/a.png", **link, linkname="new/a.png"),  # as tar writes a file given twice
        member("new/b.png", picture("blue")),
        member("new/hard.png", **link, linkname="new/b.png"),
        member("new/soft.png", **symbolic, linkname="../new/hard.png"),
        member("new/no.png", **link, linkname="nothing.png"),
        member("new/out.png", **symbolic, linkname="../../etc/passwd"),
        member("new/root.png", **symbolic, linkname="/etc/passwd"),
        member("new/hard-out.png", **link, linkname="/etc/passwd"),
        member("new/loop.png", **symbolic, linkname="loop.png"),
        member("new/c.png", **symbolic, linkname="d.png"),
        member("new/d.png", **symbolic, linkname="c.png"),
        member("new/folder", **symbolic, linkname="../new"),
        member("new/pipe.png", type=tarfile.FIFOTYPE),
        member("new/device.png", type=tarfile.CHRTYPE),
    )
    store = pack_folder(path)
    found = reasons(store)
    copies = [found.pop(f"new/{name}.png", None) for name in ("hard", "soft")]
    hidden = store.index["reason"].fillna("").str.startswith("duplicate of test image").sum()
    assert sum("duplicate of" in (copy or "") for copy in copies) + hidden == 2
    found = {name: why for name, why in found.items() if not why.startswith("duplicate")}
    nothing = ("new/no.png", "new/hard-out.png", "new/loop.png", "new/c.png", "new/d.png")
    assert found == (
        dict.fromkeys(nothing, LINK_TO_NOTHING)
        | dict.fromkeys(("new/out.png", "new/root.png"), LINK_OUT)
        | {"new/folder": LINK_TO_FOLDER}
        | dict.fromkeys(("new/pipe.png", "new/device.png"), NO_FILE)
    )
    assert len(store) == 20


def test_links_and_pipes_in_a_zip_are_quarantined(make_folder, pack_folder, tmp_path):
    link, pipe = zipfile.ZipInfo("ant/link.png"), zipfile.ZipInfo("ant/pipe.png")
    for info, kind in ((link, stat.S_IFLNK), (pipe, stat.S_IFIFO)):
        info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    path = zip_of(make_folder(), tmp_path / "set.zip", (link, "/etc/passwd"), (pipe, ""))
    assert reasons(pack_folder(path)) == {
        "ant/link.png": "a link in a .zip, which is not followed",
        "ant/pipe.png": NO_FILE,
    }


def test_an_encrypted_member_is_quarantined(make_folder, pack_folder, tmp_path):
    path = zip_of(make_folder(), tmp_path / "set.zip", ("ant/locked.png", picture("red")))
    content = bytearray(path.read_bytes())
    for magic, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.rindex(magic)
        content[start + flags] |= 1
    path.write_bytes(content)
    assert "encrypted" in reasons(pack_folder(path))["ant/locked.png"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_members_that_another_replaces_are_counted(make_folder, pack_folder, tmp_path):
    twice = [("ant/new.png", picture("red")), ("./ant/new.png", picture("blue"))]
    path = zip_of(make_folder(), tmp_path / "set.zip", *twice)
    store = pack_folder(path)
    assert store.manifest["passed_over"] == {"members that another of the same name replaces": 1}


def peak_of_packing(pack_folder, path):
    tracemalloc.start()
    try:
        store = pack_folder(path)
        return store, tracemalloc.get_traced_memory()[1] >> 20
    finally:
        tracemalloc.stop()


def test_a_zip_bomb_is_refused_by_the_size_it_declares(make_folder, pack_folder, tmp_path):
    huge = 1 << 31
    path = tmp_path / "set.zip"
    root = make_folder()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root))
        # 2 GiB of zeros in 2 MB, without the time that packing them takes.
        archive.writestr("ant/bomb.png", picture("red"))
    content = bytearray(path.read_bytes())
    for magic, size in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.rindex(magic) + size, huge)
    path.write_bytes(content)
    store, peak = peak_of_packing(pack_folder, path)
    assert reasons(store) == {"ant/bomb.png": "the file is larger than 512 MiB"}
    assert peak < 100


def test_a_zip_member_that_holds_more_than_it_declares_is_not_inflated(
    make_folder, pack_folder, tmp_path
):
    path = zip_of(make_folder(), tmp_path / "set.zip", ("ant/bomb.png", bytes(150 << 20)))
    assert path.stat().st_size < 1 << 20
    content = bytearray(path.read_bytes())
    for magic, size in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.rindex(magic) + size, 1000)
    path.write_bytes(content)
    store, peak = peak_of_packing(pack_folder, path)
    assert list(reasons(store)) == ["ant/bomb.png"]
    assert peak < 100


def test_a_tar_record_that_claims_a_disks_worth_is_not_read(make_folder, pack_folder, tmp_path):
    # A long-name record of 1 TiB; the file has a hole of that size behind it.
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 1 << 40
    path = tar_of(make_folder(), tmp_path / "set.tar")
    with path.open("r+b") as file:
        file.seek(-1024, os.SEEK_END)
        while file.read(512) == bytes(512):
            file.seek(-1024, os.SEEK_CUR)
        file.write(header.tobuf(tarfile.GNU_FORMAT))
        file.truncate(file.tell() + (1 << 30))
    with pytest.raises(DataError, match=r"set\.tar is damaged .a record claims"):
        pack_folder(path)


def test_a_tar_whose_headers_lead_in_a_circle_ends(make_folder, pack_folder, tmp_path):
    path = tmp_path / "set.tar"
    first, back = tarfile.TarInfo("ant/a.png"), tarfile.TarInfo("ant/b.png")
    back.size = -512
    path.write_bytes(first.tobuf() + back.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(DataError, match="its headers lead back to each other"):
        pack_folder(path)


def test_a_name_of_countless_folders_in_a_tar_is_refused(make_folder, pack_folder, tmp_path):
    deep = member("ant/" + "a/" * 10_000 + "b.png", picture("red"))
    with pytest.raises(DataError, match="a name of more than 4096 characters"):
        peak_of_packing(pack_folder, tar_of(make_folder(), tmp_path / "set.tar", deep))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_member_that_cannot_be_inflated_in_parts_is_not(
    make_folder, pack_folder, tmp_path, method
):
    path = zip_of(make_folder(), tmp_path / "set.zip")
    with zipfile.ZipFile(path, "a", method) as archive:
        archive.writestr("ant/bomb.png", bytes(150 << 20))
    store, peak = peak_of_packing(pack_folder, path)
    assert reasons(store) == {
        "ant/bomb.png": "packed by another method than deflate: pack it again"
    }
    assert peak < 100


def test_a_tar_that_holds_a_zip_is_read_as_a_tar(make_folder, pack_folder, tmp_path):
    root = make_folder()
    inner = zip_of(make_folder(root="inner"), tmp_path / "inner.zip")
    path = tar_of(root, tmp_path / "set.tar", member("last.zip", inner.read_bytes()))
    store = pack_folder(path)
    assert len(store) == 18 and sum(store.manifest["passed_over"].values()) == 1


def test_one_line_of_pixels_as_long_as_the_limit_takes_no_gigabytes(pack_folder, make_folder):
    root = make_folder()
    Image.new("1", (80_000_000, 1)).save(root / "ant" / "line.png")
    Image.new("1", (65_535, 2)).save(root / "ant" / "long.png")
    found = reasons(pack_folder(root))
    assert (
        list(found) == ["ant/line.png"] and "too long a side: 80000000×1" in found["ant/line.png"]
    )
