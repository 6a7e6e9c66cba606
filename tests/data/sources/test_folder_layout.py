"""What folders mean: the class that their owner meant, a split, or two readings, so a refusal."""

import stat
import struct
import tarfile
import unicodedata
import zipfile
import zlib
from collections import Counter

import pytest

from data.errors import DataError
from data.packing.pack import pack
from data.sources.folder import Folder
from data.sources.inference_inputs import Incoming
from data.sources.params import DataParams

NFC, NFD = (unicodedata.normalize(form, "Möhre") for form in ("NFC", "NFD"))


@pytest.fixture
def put(tmp_path):
    """Makes folders of so many files; of a layout only the names count, so these are no images."""

    def put(folders, each=2):
        root = tmp_path / "mine"
        for folder in folders:
            (root / folder).mkdir(parents=True, exist_ok=True)
            for number in range(each):
                (root / folder / f"{number}.png").write_bytes(b"")
        return root

    return put


def read(path):
    """The source, and (split, class) to how many images it puts there."""
    source = Folder(DataParams(source="folder", path=str(path), size=8, channels=1))
    found = Counter(
        (sample.split, None if sample.label is None else source.classes[sample.label])
        for sample in source.samples()
    )
    source.close()
    return source, found


def understood(path):
    return read(path)[1]


def said(path):
    with pytest.raises(DataError) as raised:
        read(path)
    return str(raised.value)


@pytest.mark.parametrize(
    "folders",
    [
        ["cat", "dog"],
        ["cat/2024-01", "dog/2024-01"],
        ["cat/2024-01", "dog/2024-02"],
        ["cat/2024/01/30", "dog/2023/12/24"],
        ["cat/20240130", "cat/20240131", "dog/20240130", "dog/20240131"],
        ["cat/2024-w03", "cat/2024-w04", "dog/2024-w03", "dog/2024-w04"],
        ["cat/january", "cat/feb", "dog/january", "dog/feb"],
        ["cat/batch1", "cat/batch2", "dog/batch1", "dog/batch2"],
        ["cat/camera_1", "cat/camera_2", "dog/camera_1"],
        ["cat/images", "dog/images"],
        ["cat/left", "dog/left"],
        ["cat/lisbon", "dog/oslo"],
        ["cat/a/b/c/d", "dog/e"],
        ["cat", "cat/2024-01", "dog"],
        ["cat", "cat/lisbon", "dog", "dog/oslo"],
        ["cat/2024-01", "dog"],
        ["cat/17", "dog"],
        ["set/cat/2024-01", "set/dog/2024-01"],
        ["home/me/set/cat", "home/me/set/dog"],
        ["set/cat", "set/dog", "."],
        ["set/cat", "set/dog", "set"],
        ["train/cat/2024-01", "train/dog/2024-01"],
        ["train/cat/cam1", "train/cat/cam2", "train/dog/cam1"],
        ["cat/P001", "cat/P002", "dog/P003", "dog/P004"],
        ["cat/IMG_0001", "cat/IMG_0002", "dog"],
        ["cat/P001/IMG_1", "cat/P002/IMG_2", "dog/P044/IMG_1"],
        ["set/cat", "set/dog", "unlabelled/any/depth"],
        ["cat", "dog", "Unlabeled_Data/2024", "unlabeled2017", "un-labelled"],
        ["train/cat", "train/dog", "train/unlabelled"],
        ["train/images/cat", "train/images/dog", "train/images/unlabelled", "train/unlabelled/x"],
        ["Train/cat", "Train/dog"],
        ["cat", "dog", "cat/@eaDir/0.png", "@eaDir/x", "dog/#recycle", "@Recycle/cat"],
        ["cat", "dog", "$RECYCLE.BIN/S-1-5", "System Volume Information", "cat/lost+found"],
        ["cat", "dog", ".thumbnails/large", "__MACOSX/cat", "cat/.ipynb_checkpoints"],
    ],
)
def test_the_top_folder_is_the_class(put, folders):
    found = understood(put(folders))
    assert set(found) - {("unlabelled", None)} == {("train", "cat"), ("train", "dog")}


def test_a_folder_below_a_class_that_may_be_meant_as_one_is_noted(put):
    source, _ = read(put(["pets", "pets/cat", "pets/dog", "cars", "cars/oslo", "cars/2024-01"]))
    assert source.classes == ["cars", "pets"]
    assert source.notes == ["folders within a class are not classes: cars/oslo, pets/cat, pets/dog"]


def test_thumbnails_of_a_nas_are_counted_and_never_images(put):
    root = put(["cat", "dog", "cat/@eaDir/0.png", "@eaDir/x"])
    source, found = read(root)
    incoming = Incoming(str(root))
    assert source.passed_over == dict(incoming.passed_over)
    assert sum(source.passed_over.values()) == 4
    assert found.total() == incoming.total == 4


@pytest.mark.parametrize(
    ("folders", "first", "second"),
    [
        (["car", "animals/cat", "animals/dog"], "2 classes: animals", "3 classes: car, cat, dog"),
        (["car", "bus", "animals/cat"], "3 classes: animals, bus, car", "3 classes: bus, car, cat"),
        (["animals/cat", "animals/dog", "cars/vw"], "2 classes: animals", "3 classes: cat, dog"),
        (["a/n01440764", "a/n01443537", "b/n01484850"], "2 classes: a, b", "3 classes: n01440764"),
        (["train/a/cat", "train/a/dog", "train/b/car"], "2 classes: a, b", "3 classes: car, cat"),
        (["set/car", "set/animals/cat"], "2 classes: animals, car", "2 classes: car, cat"),
        (["train/car", "train/animals/cat", "test/car"], "2 classes", "2 classes: car, cat"),
    ],
)  # fmt: skip
def test_classes_that_may_lie_below_are_refused_with_both_readings(put, folders, first, second):
    words = said(put(folders))
    assert "two readings" in words and first in words and second in words


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Train", "Test"), ("TRAIN", "TEST"), ("training", "testing"), ("train_set", "test_set"),
        ("trainset", "testset"), ("Training Set", "Test Set"), ("train-images", "test-images"),
        ("train2017", "val2017"), ("01_train", "02_test"), ("seg_train", "seg_test"),
        ("cifar10-train", "cifar10-test"), ("train", "valid"), ("train", "Validation"),
        ("train", "dev"), ("train", "eval"), ("train", "holdout"), ("TrainData", "TestData"),
        ("set/Train", "set/Test"), ("Train/images", "Test/images"),
        ("seg_train/seg_train", "seg_test/seg_test"),
    ],
)  # fmt: skip
def test_splits_are_known_by_other_names_too(put, train, test):
    source, found = read(put([f"{part}/{name}" for part in (train, test) for name in "ab"]))
    assert found == {("train", "a"): 2, ("train", "b"): 2, ("test", "a"): 2, ("test", "b"): 2}
    assert source.test_from == test.removeprefix("set/").split("/")[0] + "/"


def test_where_all_three_are_there_val_is_training_data(put):
    parts = ["Training", "Validation", "Testing", "Unlabelled"]
    source, found = read(put([f"{part}/{name}" for part in parts for name in "ab"]))
    assert found == {
        ("train", "a"): 4, ("train", "b"): 4, ("test", "a"): 2, ("test", "b"): 2,
        ("unlabelled", None): 4,
    }  # fmt: skip
    assert source.test_from == "Testing/"


@pytest.mark.parametrize(
    "folders",
    [
        ["TRAIN/a", "TRAIN/b", "TEST/a", "TEST/b", "TEST_SIMPLE/a", "TEST_SIMPLE/b"],
        ["train/a", "train/b", "more/a"],
        ["train_1/a", "train_1/b", "train_2/a", "train_2/b", "test/a"],
        ["train/a", "train/b", "test/a", "Test/b"],
        ["Train/a", "Train/c", "train/b", "train/d", "test/a"],
        ["train_1/a", "train_1/b", "train_2/c", "test/a"],
        ["train/train/a", "train/train/b", "train/test/a", "train/test/b"],
        ["data/Train/a", "data/Train/b", "more/Test/a", "more/Test/b"],
        ["A/a", "A/b", "B/a", "B/b"],
        ["A/a", "A/b", "B/b", "B/c"],
        ["A/0", "A/1", "B/0", "B/1"],
        ["A/Cat", "A/dog", "B/cat", "B/DOG"],
        ["A/x/a", "A/x/b", "B/x/a", "B/x/b"],
        ["fold1/a", "fold1/b", "fold2/a", "fold2/b"],
        ["treino/a", "treino/b", "teste/a", "teste/b"],
        ["imagesTr/a", "imagesTr/b", "imagesTs/a", "imagesTs/b"],
        ["a/train", "a/test", "b/train", "b/test"],
        ["a/Train", "a/Val", "b/Train", "b/Val"],
        ["set/train/a", "set/train/b", "set/test/a", "other/c"],
        ["a", "b", "Test/a", "Test/b"],
        ["a", "b", "later/a", "later/b"],
        ["test/a", "test/b"],
        ["Train", "Test"],
        ["a_train", "a_test", "b_train", "b_test"],
        ["trainA", "trainB", "testA", "testB"],
    ],
)
def test_what_may_be_a_test_set_is_refused_and_never_trained_on(put, folders):
    words = said(put(folders))
    assert words.startswith("data.path: ") and "move" in words


@pytest.mark.parametrize("flat", ["test", "Validation", "train"])
def test_a_split_without_class_folders_is_refused(put, flat):
    others = [part for part in ("train", "test") if part != flat]
    folders = [f"{part}/{name}" for part in others for name in "ab"]
    assert "unlabelled/" in said(put([*folders, flat]))


@pytest.mark.parametrize(
    "folders",
    [
        ["Training", "Resting"],
        ["crash_test", "steam_train"],
        ["2019", "2020"],
        ["freight train", "car"],
    ],
)
def test_a_class_may_be_called_as_a_split_is(put, folders):
    assert {name for _, name in understood(put(folders))} == set(folders)


def test_dates_are_no_classes_of_the_one_folder_around_them(put):
    assert "only the class 'pets'" in said(put(["pets/2024-01", "pets/2024-02"]))


def linked(put, tmp_path, links):
    root = put(["a", "b", "unlabelled/c"], each=5)
    lake = tmp_path / "lake"
    for name in ("c", "d/deep"):
        (lake / name).mkdir(parents=True)
        (lake / name / "1.png").write_bytes(b"")
        (lake / name / "2.heic").write_bytes(b"")
    for name, target in links.items():
        (root / name).symlink_to(str(target).replace("LAKE", str(lake)))
    return root


@pytest.mark.parametrize(
    ("links", "behind"),
    [
        ({"c": "LAKE/c"}, "2 images"),
        ({"c": "LAKE/c", "d": "LAKE/d"}, "4 images"),
        ({"c": "../lake/c"}, "2 images"),
        ({"c": "d", "d": "LAKE/c"}, "4 images"),
        ({"c": "a"}, "5 images"),
        ({"c": "unlabelled/c"}, "5 images"),
        ({"a/more": "LAKE/c"}, "2 images"),
        ({"c": "LAKE/away"}, "perhaps images"),
        ({"c": "LAKE/c", "d": "LAKE/away"}, "at least 2 images"),
    ],
)
def test_a_linked_folder_with_images_is_refused_with_their_number(put, tmp_path, links, behind):
    root = linked(put, tmp_path, links)
    words = said(root)
    assert f"{behind} lie behind {', '.join(links)}." in words and "cp -rL" in words
    with pytest.raises(DataError, match=f"--input: .*{behind} lie behind"):
        Incoming(str(root))


def test_a_folder_that_is_a_link_itself_is_read(put, tmp_path):
    (tmp_path / "link").symlink_to(put(["a", "b"]))
    assert understood(tmp_path / "link").total() == 4


def test_links_to_folders_of_other_things_and_in_circles_lose_nothing(put, tmp_path):
    root = linked(put, tmp_path, {"a/up": "..", "notes": "LAKE/notes", ".hidden": "LAKE/c"})
    (tmp_path / "lake" / "notes").mkdir()
    (tmp_path / "lake" / "notes" / "readme.txt").write_text("")
    assert understood(root)["unlabelled", None] == 5 + 2  # each is quarantined


def test_a_class_of_which_all_images_are_links_out_does_not_vanish(put, tmp_path):
    root = linked(put, tmp_path, {})
    (root / "c").mkdir()
    for number in range(5):
        (root / "c" / f"{number}.png").symlink_to(tmp_path / "lake" / "c" / "1.png")
    assert understood(root)["train", "c"] == 5
    params = DataParams(source="folder", path=str(root), size=8, channels=1, max_quarantined=1)
    with pytest.raises(DataError, match="class 'a'|none is left"):
        pack(params, tmp_path / "out")


def archive_with_link(kind, root, path, name, target):
    if kind == "tar":
        with tarfile.open(path, "w") as archive:
            archive.add(root, "")
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, target
            archive.addfile(link)
    else:
        with zipfile.ZipFile(path, "w") as archive:
            for file in sorted(root.rglob("*.png")):
                archive.write(file, file.relative_to(root))
            link = zipfile.ZipInfo(name)
            link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            archive.writestr(link, target)
    return path


@pytest.mark.parametrize(
    ("kind", "target", "behind"),
    [
        ("tar", "a", "2 images"),
        ("tar", "/lake/c", "perhaps images"),
        ("tar", "../lake/c", "perhaps images"),
        ("zip", "a", "perhaps images"),
        ("zip", "/lake/c", "perhaps images"),
    ],
)
def test_a_linked_folder_in_an_archive_is_refused(put, tmp_path, kind, target, behind):
    path = archive_with_link(kind, put(["a", "b"]), tmp_path / f"set.{kind}", "c", target)
    words = said(path)
    assert f"{behind} lie behind c." in words and "tar -h" in words


class Stored(zipfile.ZipInfo):
    """A member whose name is just these bytes, whatever Python would make of them."""

    stored = b""
    flags = 0

    def _encodeFilenameFlags(self):
        return self.stored, self.flags


def zip_of_bytes(path, names, extra=None, flags=0):
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            info = Stored(str(number))
            info.stored, info.flags = name, flags
            if extra:
                info.extra = extra(name)
            archive.writestr(info, b"")
    return path


def unicode_path(text, checksum=None):
    def extra(stored):
        field = b"\x01" + struct.pack("<I", checksum or zlib.crc32(stored)) + text.encode()
        return struct.pack("<HH", 0x7075, len(field)) + field

    return extra


@pytest.mark.parametrize("flags", [0, 0x800], ids=["without the flag", "with the flag"])
@pytest.mark.parametrize("name", ["Möhre", "猫", "кошка", "😀", NFD])
def test_names_of_a_zip_are_utf8_with_and_without_the_flag(tmp_path, name, flags):
    names = [f"{folder}/{n}.png".encode() for folder in (name, "plain-dog") for n in range(10, 12)]
    source, _ = read(zip_of_bytes(tmp_path / "set.zip", names, flags=flags))
    assert set(source.classes) == {unicodedata.normalize("NFC", name), "plain-dog"}


@pytest.mark.parametrize(
    ("extra", "name"),
    [
        (None, "Möhre"),  # as code page 437 has it
        (unicode_path("Märchen/0.png"), "Märchen"),
        (unicode_path("Märchen/0.png", checksum=7), "Möhre"),  # of a name that was changed since
    ],
)
def test_other_names_of_a_zip_are_those_of_its_code_page_or_its_own_field(tmp_path, extra, name):
    path = zip_of_bytes(tmp_path / "set.zip", ["Möhre/0.png".encode("cp437")], extra)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["Möhre/0.png"]
    incoming = Incoming(str(path))
    assert [sample.source for sample in incoming.samples(0, 1)] == [f"{name}/0.png"]


def test_one_class_is_one_however_its_accents_are_written(put):
    found = understood(put([f"train/{NFC}", "train/b", f"test/{NFD}", "test/b"]))
    assert found["train", NFC] == found["test", NFC] == 2 and len(found) == 4


def test_folders_side_by_side_that_are_the_same_text_are_one_class_and_noted(put):
    source, found = read(put([NFC, NFD, "b"]))
    assert found == {("train", NFC): 4, ("train", "b"): 2}
    assert (
        len(source.notes) == 1 and ascii(NFC) in source.notes[0] and ascii(NFD) in source.notes[0]
    )
    assert len({sample.source for sample in source.samples()}) == 6


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "cat "),
        ("cat", "cat\u200b"),
        ("big cat", "big\u00a0cat"),
        ("A", "Ａ"),
        ("ﬁn", "fin"),
    ],
)
@pytest.mark.parametrize("where", ["", "train/"])
def test_classes_that_look_the_same_are_refused_by_their_spelling(put, where, names):
    words = said(put([f"{where}{name}" for name in (*names, "other")]))
    assert all(ascii(name) in words for name in names)


def test_classes_that_differ_by_case_are_two_and_noted(put):
    source, _ = read(put(["A", "a", "b"]))
    assert source.classes == ["A", "a", "b"]
    assert source.notes == ["classes whose names differ by upper and lower case: 'A', 'a'"]


@pytest.mark.parametrize("test", ["Cat", "cat ", "cat\u200b"])
def test_a_test_class_that_is_spelled_otherwise_is_named_with_the_one_meant(put, test):
    words = said(put(["train/cat", "train/dog", f"test/{test}", "test/dog"]))
    assert "no training image" in words and "The training set has 'cat'" in words
