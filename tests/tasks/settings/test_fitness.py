"""Settings that do not fit the data: all named in one message, whose remedies do together."""

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.errors import DataError
from data.images.views import ViewsDataModule
from data.packing.census import Census, count_listed, count_packed
from data.packing.pack import pack
from data.sources.params import DataParams
from data.store.packed_store import PackedStore
from data.store.splits import draw_labels
from models.methods.registry import METHODS
from tasks.errors import TaskError
from tasks.settings.editing import change_settings, known_presets
from tasks.settings.fitness import require_fitting
from tasks.settings.loading import load_params
from tasks.stages.pretrain import pretrain, view_policies
from tests.tasks.small_stages import make_stage, prepare

HERE = Path(__file__).resolve().parents[3]
FASHION = count_listed(DataParams(source="fashion-mnist", path="x", size=28, channels=1))
# Images of each class, images without a label, and whether there is a test set.
DATA = {
    "4, none to spare": ([2, 2], 0, True),
    "6": ([3, 3], 0, False),
    "10 in 5 classes": ([2] * 5, 0, False),
    "12 with a test set": ([6, 6], 0, True),
    "42": ([14, 14, 14], 0, False),
    "100 in 10 classes": ([10] * 10, 0, False),
    "unbalanced": ([60, 60, 2], 0, False),
    "300 in 2 classes": ([150, 150], 0, False),
    "few labels": ([2, 3, 2], 100, True),
    "more unlabelled than labelled": ([4, 4], 40, False),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(HERE / "params.yaml", tmp_path)
    shutil.copytree(HERE / "data" / "pinned", tmp_path / "data" / "pinned")
    shutil.copytree(HERE / "examples", tmp_path / "examples")
    return tmp_path


def take(project, method, *settings):
    """The settings of a method, its preset included where it has one."""
    preset = f"methods/{method}"
    presets = [preset] if preset in known_presets(project) else []
    chosen = [] if presets else [f"pretrain.method.name={method}"]
    colour = ["data.channels=3"] if method == "colorization" else []
    change_settings(project, [*chosen, *colour, *settings], presets)
    return load_params(project / "params.yaml")


def refused(params, census):
    with pytest.raises(TaskError) as caught:
        require_fitting(params, census)
    return str(caught.value)


def obey(project, said):
    """Type the command of the message."""
    program, verb, *assignments = shlex.split(said.partition("`")[2].partition("`")[0])
    assert (program, verb) == ("instar", "set") and assignments, said
    change_settings(project, assignments)
    return load_params(project / "params.yaml")


def write_npz(path, per_class, unlabelled, with_test, size=8):
    random = np.random.default_rng(0)

    def noise(count):
        return random.integers(0, 256, (count, size, size), dtype=np.uint8)

    labels = np.repeat(np.arange(len(per_class)), per_class)
    arrays = {"train_images": noise(len(labels)), "train_labels": labels}
    if unlabelled:
        arrays["unlabelled_images"] = noise(unlabelled)
    if with_test:
        classes = np.arange(len(per_class))
        arrays |= {"test_images": noise(len(classes)), "test_labels": classes}
    np.savez(path, **arrays)


@pytest.mark.parametrize("method", ["simclr", "moco-v2", "deepcluster-v2", "rotation"])
@pytest.mark.parametrize("name", DATA)
def test_what_the_message_says_to_set_is_taken_by_every_stage(project, name, method):
    write_npz(project / "mine.npz", *DATA[name])
    data = ["data.source=npz", f"data.path={project}/mine.npz"]
    sides = ["data.size=8", "pretrain.augmentation.view_size=8"]
    params = take(project, method, *data, *sides, "pretrain.batch_size=512")
    listed = count_listed(params.data)
    params = obey(project, refused(params, listed))
    require_fitting(params, listed)
    pack(params.data, project / "out")
    store = PackedStore.open(project / "out" / "store")
    assert count_packed(store) == listed
    rows = store.rows("train")
    batch = params.pretrain.batch_size
    loader = ViewsDataModule(store, rows, view_policies(params.pretrain), batch, seed=0)
    assert len(loader.train_dataloader()) >= 1
    for fraction in (params.pretrain.probe_fraction, params.finetune.label_fraction):
        drawn = draw_labels(store.labels(rows), fraction, seed=0, draw=0)
        assert set(store.labels(rows)[drawn]) == set(range(len(store.classes)))
    if method == "deepcluster-v2":
        assert params.pretrain.method.clusters <= len(rows)


def test_all_that_is_wrong_is_one_message(project):
    params = take(project, "deepcluster-v2", "finetune.learner.readout.stages=9")
    said = refused(params, Census((11, 11, 11), 0))
    for key in (
        "pretrain.batch_size = 256",
        "pretrain.method.clusters = 256",
        "pretrain.probe_fraction = 0.01",
        "finetune.label_fraction = 0.01",
        "finetune.learner.readout.stages = 9",
    ):
        assert said.count(f"- {key}: ") == 1
    assert said.startswith("5 settings do not fit the data (33 training images, 3 classes)")
    require_fitting(obey(project, said), Census((11, 11, 11), 0))


def test_a_single_one_is_one_line(project):
    params = take(project, "simclr", "pretrain.batch_size=512")
    said = refused(params, Census((200, 200), 0))
    assert "\n" not in said and said.startswith("pretrain.batch_size = 512: ")
    assert said.endswith("this does: `instar set pretrain.batch_size=128`")


def test_too_few_images_for_any_batch_is_said_and_the_rest_has_values(project):
    said = refused(take(project, "simclr"), Census((1, 2), 0))
    assert "the smallest batch is 4: add images" in said
    assert "instar set pretrain.probe_fraction=0.67 finetune.label_fraction=0.67`" in said


@pytest.mark.parametrize("method", METHODS)
def test_what_a_method_brings_fits_fashion_mnist(project, method):
    require_fitting(take(project, method), FASHION)


def test_a_probe_that_is_off_needs_no_label(project):
    params = take(project, "simclr", "pretrain.probe_fraction=0", "finetune.label_fraction=0.5")
    require_fitting(params, Census((200, 200), 0))


VIT = ("pretrain.encoder.name=test_vit", "pretrain.encoder.readout.stages=1")
FIXED = ("pretrain.encoder.name=test_vit_relpos", "pretrain.encoder.patch_size=4")


@pytest.mark.parametrize(
    ("method", "settings", "problems"),
    [
        ("mae", ["pretrain.encoder.name=resnet18"], ["plain ViT"]),
        ("mae", ["pretrain.encoder.patch_size=16"], ["2 patches a side"]),
        ("mae", ["pretrain.encoder.patch_size=1"], ["patch_size to 2 or more"]),
        ("i-jepa", ["pretrain.augmentation.view_size=12"], ["3 patches a side"]),
        ("data2vec", ["pretrain.method.top_layers=99"], ["6 layers, not 99"]),
        ("simclr", [*VIT, "pretrain.encoder.readout.stages=50"], ["fewer than 50 stages"]),
        ("simclr", [*FIXED], ["images of 28 pixels only, not of 20"]),
        ("dino", [*FIXED], ["takes no small crops"]),
        ("rotation", ["pretrain.encoder.readout.stages=4"], ["this encoder has 3"]),
        (
            "simclr",
            ["finetune.learner.readout.stages=4", "finetune.control.learner.readout.stages=5"],
            ["finetune.learner.readout.stages = 4", "finetune.control.learner.readout.stages = 5"],
        ),
    ],
)
def test_encoder_and_method_are_tried_and_the_remedies_do(project, method, settings, problems):
    params = take(project, method, *settings)
    said = refused(params, FASHION)
    for problem in problems:
        assert problem in said
    require_fitting(obey(project, said), FASHION)


@pytest.mark.parametrize(
    ("per_class", "with_test", "said"),
    [([5, 1, 5], False, "'1' has a single image"), ([5, 0, 5], True, "'1' has no training image")],
)
def test_a_class_too_small_is_refused_before_an_image_is_read(tmp_path, per_class, with_test, said):
    labels = np.repeat(np.arange(3), per_class)
    arrays = {"train_images": np.zeros((len(labels), 8, 8), np.uint8), "train_labels": labels}
    if with_test:
        arrays |= {"test_images": np.ones((1, 8, 8), np.uint8), "test_labels": np.array([0])}
    np.savez(tmp_path / "a.npz", **arrays, classes=np.array(["0", "1", "2"]))
    with pytest.raises(DataError, match=said):
        count_listed(DataParams(source="npz", path=f"{tmp_path}/a.npz", size=8, channels=1))


def test_the_first_stage_that_trains_refuses_for_the_later_ones_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare()
    run = make_stage("pretrain", batch_size=64, probe_fraction=0.001)
    with pytest.raises(TaskError, match=r"(?s)2 settings.*batch_size = 64.*probe_fraction = 0.001"):
        pretrain(run)
