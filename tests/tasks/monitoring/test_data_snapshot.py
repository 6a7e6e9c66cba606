"""What lies at data.path: as DVC has it, and cheaply when nothing changed."""

import os
import shutil
import subprocess
import sys
import time
import zipfile

import pytest
from ruamel.yaml import YAML

from tasks.errors import TaskError
from tasks.monitoring import data_snapshot
from tasks.monitoring.data_snapshot import Listing, items_of, list_data, remember
from tests.tasks.toy_project import make_toy_project


@pytest.fixture
def root(tmp_path):
    for name, content in {"a/1.png": b"one", "a/2.png": b"two", "b é/3.png": b"three"}.items():
        write(tmp_path / "pics" / name, content)
    return tmp_path


def write(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@pytest.fixture
def hashed(monkeypatch):
    """Which files are read; what was just written counts as settled."""
    read = []
    monkeypatch.setattr(data_snapshot, "YOUNG_SECONDS", 0.0)
    md5 = data_snapshot._md5
    monkeypatch.setattr(
        data_snapshot, "_md5", lambda file: read.append(os.path.basename(file)) or md5(file)
    )
    return read


def test_version_is_the_one_that_dvc_gives(tmp_path):
    project = make_toy_project(tmp_path / "project")
    (project / ".dvcignore").write_text("*.tmp\n")
    for name in ("z/1.png", "a/2.png", "a é.png", "a/b.tmp", ".DS_Store"):
        write(project / "pics" / name, name.encode())
    for target in ("pics", "pics/z/1.png"):
        (project / ".gitignore").write_text("")
        found = list_data(project, target)
        subprocess.run([sys.executable, "-m", "dvc", "add", "-q", target], cwd=project, check=True)
        told = YAML(typ="safe").load(project / f"{target}.dvc")["outs"][0]["md5"]
        (project / f"{target}.dvc").unlink()
        assert found.version == told


def test_only_what_changed_is_read_again(root, hashed):
    first = list_data(root, "pics")
    assert sorted(hashed) == ["1.png", "2.png", "3.png"]
    hashed.clear()
    assert list_data(root, "pics") == first and hashed == []
    write(root / "pics" / "a" / "2.png", b"TWO")
    second = list_data(root, "pics")
    assert hashed == ["2.png"]
    assert second.version != first.version
    assert [n for n in first.items if second.items[n] != first.items[n]] == ["a/2.png"]


def test_a_file_put_in_the_place_of_another_with_its_size_and_time_is_seen(root, hashed):
    first = list_data(root, "pics")
    path = root / "pics" / "a" / "1.png"
    stat = path.stat()
    (root / "new").write_bytes(b"eno")
    os.utime(root / "new", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.replace(root / "new", path)
    assert list_data(root, "pics").version != first.version


def test_members_of_an_archive_are_its_items(root):
    for kind in ("tar", "zip"):
        shutil.make_archive(str(root / "pics"), kind, root / "pics")
        found = list_data(root, f"pics.{kind}")
        assert {name.removeprefix("./") for name in found.items} >= {"a/1.png", "b é/3.png"}
    with zipfile.ZipFile(root / "pics.zip", "a") as archive:
        archive.writestr("c/4.png", b"four")
    assert list_data(root, "pics.zip").items.keys() - found.items.keys() == {"c/4.png"}


def test_an_archive_that_did_not_change_is_not_opened(root, hashed, monkeypatch):
    shutil.make_archive(str(root / "pics"), "tar", root / "pics")
    first = list_data(root, "pics.tar")
    hashed.clear()
    monkeypatch.setattr(data_snapshot, "open_container", None)
    assert list_data(root, "pics.tar") == first and hashed == []


def test_data_that_are_not_there_or_cannot_be_hashed_are_explained(root):
    with pytest.raises(TaskError, match="gone does not exist"):
        list_data(root, "gone")
    os.mkfifo(root / "pics" / "pipe")
    with pytest.raises(TaskError, match="a pipe"):
        list_data(root, "pics")


def test_what_vanishes_while_it_is_listed_is_left_out_and_counts_as_a_change_of_now(
    root, monkeypatch
):
    """A copy writes each file under another name first."""
    md5, ignored, began = data_snapshot._md5, data_snapshot._ignored_in(root), time.time()

    def vanishing_file(file):
        if file.endswith("2.png"):
            os.unlink(file)
        return md5(file)

    def vanishing_folder(path, is_folder):
        if is_folder and path.endswith("b é"):
            shutil.rmtree(path)
        return ignored(path, is_folder)

    monkeypatch.setattr(data_snapshot, "_md5", vanishing_file)
    monkeypatch.setattr(data_snapshot, "_ignored_in", lambda _: vanishing_folder)
    found = list_data(root, "pics")
    assert found.items.keys() == {"a/1.png"} and found.newest >= began


def test_only_the_present_version_and_the_former_one_are_remembered(root):
    kept = [Listing(version, {"1.png": version}, 0.0) for version in ("a.dir", "b.dir", "c.dir")]
    for each in kept:
        remember(root, each, "a.dir")
    found = [items_of(root, each.version, None) for each in kept]
    assert found == [kept[0].items, None, kept[2].items]
