import errno
import io
import json
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.packing import shard_writer
from data.packing.pack import pack
from data.sources.params import DataParams
from data.store.packed_store import PackedStore, read_test_labels, read_test_sources


def reasons(store):
    refused = store.index[store.index["reason"].notna()]
    return dict(zip(refused["source"], refused["reason"], strict=True))


def all_sources(store):
    """The name of every sample, those of the test included; by row."""
    hidden = read_test_sources(store.path.parent / "test_sources.parquet").set_index("id")["source"]
    return store.index["source"].fillna(store.index["id"].map(hidden))


def content_of(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_gather_gives_the_pixels_of_the_named_file(make_folder, pack_folder):
    root = make_folder()
    store = pack_folder(root, size=12)
    rows = np.array([5, 0, 17, 5])
    for row, image in zip(rows, store.gather(rows), strict=True):
        source = all_sources(store)[row]
        assert np.array_equal(image, np.asarray(Image.open(root / source)))
        assert store.classes[store.labels(np.array([row]))[0]] in source or (
            store.index["split"][row] == "test"
        )


def test_shards_are_invisible_to_gather(make_folder, pack_folder, monkeypatch):
    root = make_folder()
    whole = pack_folder(root, "whole")
    monkeypatch.setattr(shard_writer, "SHARD_BYTES", 5 * 8 * 8 * 3)
    parts = pack_folder(root, "parts")
    assert len(parts.manifest["shards"]) == 4
    rows = np.random.default_rng(0).permutation(18)
    assert np.array_equal(parts.gather(rows), whole.gather(rows))
    assert parts.manifest["mean"] == whole.manifest["mean"]


def test_packing_twice_gives_the_same_bytes(make_folder, pack_folder, tmp_path):
    root = make_folder()
    (root / "ant" / "broken.png").write_bytes(b"no image")
    pack_folder(root, "first")
    pack_folder(root, "second")
    assert content_of(tmp_path / "first") == content_of(tmp_path / "second")


def test_mean_and_std_are_those_of_the_train_pixels(make_folder, pack_folder):
    store = pack_folder(make_folder())
    pixels = store.gather(store.rows("train")) / 255.0
    assert np.allclose(store.manifest["mean"], pixels.mean(axis=(0, 1, 2)))
    assert np.allclose(store.manifest["std"], pixels.std(axis=(0, 1, 2)))


@pytest.mark.parametrize("name", ["images-00000.npy", "index.parquet", "manifest.json"])
def test_a_flipped_byte_is_found_and_its_file_named(make_folder, pack_folder, name):
    store = pack_folder(make_folder())
    path = store.path / name
    content = bytearray(path.read_bytes())
    position = content.index(b'"std"') + 12 if name == "manifest.json" else len(content) // 2
    content[position] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"{name}.*run the stage prepare again"):
        PackedStore.open(store.path, verify=True)


def test_a_missing_store_says_which_stage_to_run(tmp_path):
    with pytest.raises(DataError, match="run the stage prepare"):
        PackedStore.open(tmp_path)
    with pytest.raises(DataError, match="run the stage prepare"):
        read_test_labels(tmp_path)


def test_labels_of_the_test_set_are_beside_the_store_and_not_in_it(make_folder, pack_folder):
    store = pack_folder(make_folder())
    test = store.index[store.index["split"] == "test"]
    assert len(test) == 6 and test["label"].isna().all()
    assert (store.labels(store.rows("test")) == -1).all()
    labels = read_test_labels(store.path.parent)
    assert labels["id"].tolist() == test["id"].tolist()
    classes = [source.split("/")[0] for source in all_sources(store)[test.index]]
    assert [store.classes[label] for label in labels["label"]] == classes


@pytest.mark.parametrize("own_test", [True, False])
def test_the_store_tells_no_class_of_a_test_image_by_any_name(make_folder, pack_folder, own_test):
    train = make_folder(each=8, root="set/train" if own_test else "set")
    if own_test:
        shutil.move(train / "ant", train.parent / "test" / "ant")
        shutil.copytree(train.parent / "test" / "ant", train / "ant")
    for path in list(train.rglob("*.png")):
        shutil.copy(path, path.with_name(f"again-{path.name}"))
    Image.new("RGB", (9, 9), "red").save(train / "ant" / "red.png")
    store = pack_folder(train.parent if own_test else train)
    test = store.index["split"] == "test"
    copies = store.index["reason"].isin(
        [f"duplicate of test image {i}" for i in store.index["id"][test]]
    )
    assert test.sum() in (8, 9) and copies.sum() == test.sum() * (2 if own_test else 1)
    assert store.index["source"][test | copies].isna().all()
    assert store.index["source"][~(test | copies)].notna().all()
    told = store.index["source"].dropna().tolist()
    hidden = all_sources(store)[test].tolist()
    assert not [
        name for name in told + list(reasons(store).values()) if any(h in name for h in hidden)
    ]


def test_what_cannot_be_read_is_quarantined_with_its_reason(make_folder, pack_folder):
    root = make_folder()
    shutil.copy(root / "ant" / "0.png", root / "ant" / "cut.png")
    os.truncate(root / "ant" / "cut.png", 60)
    (root / "bee" / "text.jpg").write_text("not a picture")
    (root / "bee" / "empty.jpg").touch()
    store = pack_folder(root)
    found = reasons(store)
    assert "damaged" in found["ant/cut.png"]
    assert "known format" in found["bee/text.jpg"] and "empty" in found["bee/empty.jpg"]
    assert len(found) == 3 and store.manifest["counts"]["quarantined"] == 3
    assert len(store) == 18 and len(store.index) == 21


def test_a_duplicate_is_dropped_and_names_its_original(make_folder, pack_folder):
    root = make_folder()
    shutil.copy(root / "bee" / "2.png", root / "bee" / "again.png")
    store = pack_folder(root)
    assert reasons(store) == {"bee/again.png": "duplicate of bee/2.png"}
    assert store.manifest["counts"]["duplicates"] == 1


def test_of_a_duplicate_in_train_and_test_the_test_copy_stays(make_folder, pack_folder):
    train = make_folder(root="set/train")
    root = train.parent
    shutil.copytree(train / "ant", root / "test" / "ant")
    shutil.rmtree(train / "cow")
    for number in range(3):
        (root / "test" / "ant" / f"{number}.png").unlink()
    store = pack_folder(root)
    assert len(store.rows("test")) == 3 and len(store.rows("train")) == 9
    sources = all_sources(store)
    original = store.index["id"][sources == "test/ant/3.png"].item()
    reason = store.index["reason"][sources == "train/ant/3.png"].item()
    assert reason == f"duplicate of test image {original}"


def test_an_image_with_two_labels_is_in_no_split(make_folder, pack_folder):
    root = make_folder()
    shutil.copy(root / "ant" / "1.png", root / "bee" / "same.png")
    store = pack_folder(root)
    found = reasons(store)
    assert set(found) == {"ant/1.png", "bee/same.png"}
    assert all("another label" in reason for reason in found.values())
    assert len(store.rows("train")) + len(store.rows("test")) == 17


def test_an_unlabelled_copy_of_a_labelled_image_is_the_one_dropped(make_folder, pack_folder):
    root = make_folder()
    (root / "unlabelled" / "deep").mkdir(parents=True)
    shutil.copy(root / "ant" / "0.png", root / "unlabelled" / "deep" / "a.png")
    Image.new("RGB", (9, 9), "red").save(root / "unlabelled" / "red.png")
    store = pack_folder(root)
    assert reasons(store) == {"unlabelled/deep/a.png": "duplicate of ant/0.png"}
    assert store.manifest["counts"]["unlabelled"] == 1
    assert (store.labels(store.rows("train")) == -1).sum() == 1
    assert store.classes == ["ant", "bee", "cow"]


def test_an_archive_packs_to_the_same_images_as_its_folder(make_folder, pack_folder, tmp_path):
    root = make_folder()
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(root, "wrapped/set")
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(root.rglob("*.png"), reverse=True):
            archive.write(path, f"../{path.relative_to(root)}")
        archive.writestr("__MACOSX/ant/._0.png", b"mac")
    folder = pack_folder(root, "a")
    for number, name in enumerate(("set.tar", "set.zip")):
        packed = pack_folder(tmp_path / name, f"b{number}")
        assert packed.manifest["counts"] == folder.manifest["counts"]
        assert packed.classes == folder.classes
        assert packed.index["sha256"].tolist() == folder.index["sha256"].tolist()
        assert packed.index["label"].equals(folder.index["label"])


def one_colour(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (9, 9), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", ["ant/new.png", "./ant/new.png", "ant/sub/../new.png"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_of_members_of_one_name_the_last_counts(make_folder, pack_folder, tmp_path, kind, name):
    root = make_folder()
    members = [("ant/new.png", one_colour("red")), (name, one_colour("blue"))]
    path = tmp_path / f"set.{kind}"
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            archive.add(root, "")
            for member, content in members:
                header = tarfile.TarInfo(member)
                header.size = len(content)
                archive.addfile(header, io.BytesIO(content))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for file in root.rglob("*.png"):
                archive.write(file, file.relative_to(root))
            for member, content in members:
                archive.writestr(member, content)
    store = pack_folder(path)
    assert len(store) == len(store.index) == 19 and store.index["id"].is_unique
    row = store.index.index[all_sources(store) == "ant/new.png"].to_numpy()
    assert (store.gather(row) == [0, 0, 255]).all()


def test_a_name_that_climbs_is_not_taken_for_another_file(make_folder, pack_folder, tmp_path):
    root = make_folder()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in root.rglob("*.png"):
            archive.write(path, path.relative_to(root))
        archive.writestr("unlabelled\\sub\\..\\red.png", one_colour("red"))
        archive.writestr("unlabelled/sub/red.png", one_colour("blue"))
    store = pack_folder(tmp_path / "set.zip")
    assert len(store) == 20
    assert {"unlabelled/red.png", "unlabelled/sub/red.png"} < set(all_sources(store))


def test_archives_are_never_unpacked(make_folder, pack_folder, tmp_path):
    root = make_folder()
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in root.rglob("*.png"):
            archive.write(path, f"../../escaped/{path.relative_to(root)}")
    before = set(tmp_path.parent.rglob("*"))
    pack_folder(tmp_path / "set.zip")
    new = {
        p
        for p in set(tmp_path.parent.rglob("*")) - before
        if tmp_path / "out" not in [p, *p.parents]
    }
    assert not new


def test_links_out_of_the_folder_are_quarantined_and_hidden_files_counted(
    make_folder, pack_folder, tmp_path
):
    root = make_folder()
    Image.new("RGB", (9, 9)).save(tmp_path / "secret.png")
    (root / "ant" / "link.png").symlink_to(tmp_path / "secret.png")
    (root / "linked").symlink_to(tmp_path, target_is_directory=True)
    shutil.copy(tmp_path / "secret.png", root / "ant" / ".hidden.png")
    store = pack_folder(root)
    out = "a link that leads out of the data"
    assert len(store) == 18 and reasons(store) == {"ant/link.png": out, "linked": out}
    assert store.manifest["passed_over"] == {"hidden files": 1}


@pytest.mark.parametrize(
    ("classes", "each", "said"),
    [
        ((), 0, "does not exist; put your images there"),
        (("ant",), 3, "only the class 'ant'.*at least two"),
        (("ant", "bee"), 1, "class 'ant' .* has a single image.*bring a test/ folder"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why_and_what_to_do(
    make_folder, pack_folder, tmp_path, classes, each, said
):
    make_folder(classes, each)
    with pytest.raises(DataError, match=said):
        pack_folder(tmp_path / "images")


@pytest.mark.parametrize("held_out", ["test", "val"])
@pytest.mark.parametrize("others", [("ant", "bee"), ()])
def test_test_images_without_a_train_folder_are_never_trained_on(
    make_folder, pack_folder, held_out, others
):
    root = make_folder(("ant", "bee"), root=f"images/{held_out}").parent
    for name in others:
        shutil.copytree(root / held_out / name, root / name)
    with pytest.raises(DataError, match=f"is {held_out}/ but no train/; move"):
        pack_folder(root)


def test_val_is_the_test_set_only_where_there_is_no_other(make_folder, pack_folder):
    root = make_folder(("ant", "bee"), root="set/train").parent
    shutil.copytree(root / "train", root / "val")
    for path in (root / "val").rglob("*.png"):
        Image.new("RGB", (9, 9), (len(str(path)), ord(path.stem), ord(path.parent.name[0]))).save(
            path
        )
    assert pack_folder(root, "val").manifest["counts"]["test"] == 12
    (root / "test" / "ant").mkdir(parents=True)
    Image.new("RGB", (9, 9), "red").save(root / "test" / "ant" / "red.png")
    counts = pack_folder(root, "test").manifest["counts"]
    assert (counts["train"], counts["test"]) == (24, 1)


def test_a_folder_without_images_lists_the_extensions_looked_for(tmp_path, pack_folder):
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"no images found.*\.jpeg.*\.png"):
        pack_folder(tmp_path)


def test_a_set_of_which_nothing_can_be_used_is_an_error(tmp_path, pack_folder):
    for name in ("ant", "bee"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "set" / name / f"{number}.png").write_text(f"{name}{number}")
    with pytest.raises(
        DataError,
        match=r"4 of 4 images \(100%\) cannot be used, none is left: not an image in a known ",
    ):
        pack_folder(tmp_path / "set")


def test_a_full_disk_is_explained_and_leaves_the_former_store(
    make_folder, pack_folder, tmp_path, monkeypatch
):
    root = make_folder()
    former = pack_folder(root).manifest["digest"]

    def no_space(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shard_writer.np, "save", no_space)
    with pytest.raises(DataError, match=r"disk is full.*needs 3456 bytes"):
        pack_folder(root)
    assert PackedStore.open(tmp_path / "out" / "store", verify=True).manifest["digest"] == former
    assert not list(tmp_path.glob(".*partial"))


def test_npz_images_that_are_no_pixels_are_quarantined(tmp_path):
    images = np.random.default_rng(0).random((12, 8, 8)).astype(np.float32)
    images[3, 2, 2] = np.nan
    labels = np.arange(12) % 2
    np.savez_compressed(
        tmp_path / "a.npz", train_images=images, train_labels=labels, classes=["no", "yes"]
    )
    params = DataParams(source="npz", path=str(tmp_path / "a.npz"), size=8, channels=1)
    summary = pack(params, tmp_path / "out")
    assert summary.quarantined == 1 and summary.classes == ["no", "yes"]
    store = PackedStore.open(tmp_path / "out" / "store")
    assert "NaN" in reasons(store)["train_images/0000003"]


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"images": np.zeros((2, 4, 4))}, "no array 'train_images'; it holds images"),
        (
            {"train_images": np.zeros((2, 4, 4)), "train_labels": np.zeros(3, int)},
            "one whole number for each of the 2",
        ),
        (
            {
                "train_images": np.zeros((2, 4, 4)),
                "train_labels": np.array([0, 5]),
                "classes": np.array(["a", "b"]),
            },
            r"train_labels\[1\] is 5",
        ),
        (
            {"train_images": np.array([[[{}]]], object), "train_labels": np.zeros(1, int)},
            "Python objects",
        ),
    ],
)
def test_an_npz_that_cannot_be_used_names_the_array_at_fault(tmp_path, arrays, said):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=said):
        pack(DataParams(source="npz", path=str(tmp_path / "a.npz"), size=8, channels=1), tmp_path)


def test_the_summary_counts_what_the_store_holds(make_folder, tmp_path):
    params = DataParams(source="folder", path=str(make_folder()), size=8, channels=1)
    told = []
    summary = pack(params, tmp_path / "out", lambda *news: told.append(news))
    store = PackedStore.open(tmp_path / "out" / "store")
    assert summary.train == len(store.rows("train")) == sum(summary.train_per_class)
    assert summary.test == len(store.rows("test")) == len(read_test_labels(tmp_path / "out"))
    assert summary.digest == json.loads((store.path / "manifest.json").read_text())["digest"]
    assert told[-1] == ("pack", 18, 18)
