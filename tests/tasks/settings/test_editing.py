"""Edits of params.yaml: comments stay, and an edit that is not valid changes nothing."""

import shutil
from pathlib import Path

import pytest

from models.errors import ModelError
from models.learners import LinearProbeParams
from models.methods.registry import METHODS
from tasks.comparison.grid import METHOD, grid
from tasks.errors import TaskError
from tasks.settings.editing import change_settings, require_valid
from tasks.settings.loading import load_params
from tasks.settings.project_files import read_yaml

HERE = Path(__file__).resolve().parents[3]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(HERE / "params.yaml", tmp_path)
    shutil.copytree(HERE / "data" / "pinned", tmp_path / "data" / "pinned")
    return tmp_path


def text(project: Path) -> str:
    return (project / "params.yaml").read_text()


def test_only_the_line_that_was_set_changes(project):
    before = text(project).splitlines()
    changes = change_settings(project, ["finetune.label_fraction=0.0321"])
    after = text(project).splitlines()
    different = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
    assert len(different) == 1
    assert "label_fraction: 0.0321" in different[0][1]
    assert changes == ["finetune.label_fraction: 0.01 → 0.0321"]
    assert load_params(project / "params.yaml").finetune.label_fraction == 0.0321


def test_comments_survive(project):
    comments = [line.partition("#")[2] for line in text(project).splitlines() if "#" in line]
    change_settings(project, ["pretrain.epochs=77", "pretrain.augmentation.crop_scale=[0.3, 0.8]"])
    assert comments == [
        line.partition("#")[2] for line in text(project).splitlines() if "#" in line
    ]


def test_unknown_key_is_refused_with_the_nearest_one_and_nothing_is_written(project):
    before = text(project)
    with pytest.raises(TaskError, match=r"finetune\.label_fraction"):
        change_settings(project, ["pretrain.epochs=3", "finetune.label_fractoin=0.05"])
    assert text(project) == before


def test_bad_value_is_refused_and_nothing_is_written(project):
    before = text(project)
    with pytest.raises(TaskError, match="label_fraction"):
        change_settings(project, ["finetune.label_fraction=7"])
    assert text(project) == before


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (
            ["data.source=folder", "data.path=data/raw/mien"],
            "data.path: there is no data/raw/mien; put your images there first, or correct the "
            "path.",
        ),
        (
            ["data.source=cifar10", "data.path=cifar10"],
            "data.path: there is no cifar10; for cifar10 it is data/pinned/cifar10.sha256.",
        ),
        (
            ["pretrain.encoder.name=resnet81"],
            r"encoder.name 'resnet81' is neither resnet_tiny nor in timm; nearest names: \w*resnet",
        ),
    ],
)
def test_data_or_an_encoder_that_is_not_there_is_refused_before_it_is_written(
    project, assignments, said
):
    before = text(project)
    with pytest.raises((TaskError, ModelError), match=said):
        change_settings(project, assignments)
    assert text(project) == before


@pytest.mark.parametrize("tracked", ["data/raw/mine.dvc", "data/raw.dvc"])
def test_data_that_dvc_can_bring_need_not_be_there_yet(project, tracked):
    (project / "data" / "raw").mkdir()
    (project / tracked).touch()
    assert change_settings(project, ["data.source=folder", "data.path=data/raw/mine"])


@pytest.mark.parametrize("wrong", ["pretrain.epochs", "=3", "pretrain.epochs=[1, "])
def test_what_is_no_assignment_is_explained(project, wrong):
    with pytest.raises(TaskError):
        change_settings(project, [wrong])


def test_same_value_writes_nothing(project):
    stamp = (project / "params.yaml").stat().st_mtime_ns
    assert change_settings(project, ["finetune.label_fraction=0.01"]) == []
    assert (project / "params.yaml").stat().st_mtime_ns == stamp


def test_preset_is_merged_below_the_assignments(project):
    (project / "examples").mkdir()
    (project / "examples" / "tiny.yaml").write_text("pretrain: {epochs: 41, batch_size: 64}\n")
    change_settings(project, ["pretrain.epochs=42"], presets=["tiny"])
    params = load_params(project / "params.yaml")
    assert (params.pretrain.epochs, params.pretrain.batch_size) == (42, 64)


def test_preset_with_another_variant_does_not_keep_the_former_ones_settings(project):
    (project / "examples").mkdir()
    (project / "examples" / "probe.yaml").write_text(
        "finetune:\n"
        "  learner: {name: linear-probe, folds: 3}\n"
        "  control: {learner: {name: linear-probe, folds: 3}}\n"
    )
    change_settings(project, presets=["probe"])
    assert load_params(project / "params.yaml").finetune.learner.name == "linear-probe"


def test_learner_is_switched_by_its_name_alone(project):
    change_settings(project, ["finetune.learner.name=linear-probe"])
    finetune = load_params(project / "params.yaml").finetune
    assert finetune.learner == finetune.control.learner == LinearProbeParams()
    change_settings(project, ["finetune.learner.name=linear-probe", "finetune.learner.folds=3"])
    assert load_params(project / "params.yaml").finetune.control.learner.folds == 3


VIT = ["pretrain.encoder.name=test_vit"]
ENCODER_FOR = {
    **dict.fromkeys(["mae", "i-jepa", "data2vec", "data2vec-2"], VIT),
    "colorization": ["data.channels=3"],
}


@pytest.mark.parametrize("name", ENCODER_FOR)
def test_method_that_suits_neither_encoder_nor_images_is_refused_with_a_remedy(project, name):
    before = text(project)
    remedy = rf"set --preset methods/{name}`|method {name} takes images of 3 channels"
    with pytest.raises(TaskError, match=remedy):
        change_settings(project, [f"pretrain.method.name={name}"])
    assert text(project) == before
    change_settings(project, [*ENCODER_FOR[name], f"pretrain.method.name={name}"])


@pytest.mark.parametrize("name", METHODS)
def test_method_is_switched_by_its_name_alone_and_what_that_drops_is_said(project, name):
    change_settings(project, ENCODER_FOR.get(name, []))
    before = load_params(project / "params.yaml").pretrain.method.model_dump()
    changes = change_settings(project, [f"pretrain.method.name={name}"])
    method = load_params(project / "params.yaml").pretrain.method
    assert method == type(method)() and method.name == name
    if name != before["name"]:
        expected = {f"pretrain.method.{k}: {v} → unset" for k, v in before.items() if k != "name"}
        assert set(changes) == {*expected, f"pretrain.method.name: simclr → {name}"}
    assert "docs/reference/methods.md" in text(project)


def test_methods_are_compared_by_their_names_alone(project):
    for cell in grid([f"{METHOD}=simclr,byol,moco-v2"], 1):
        require_valid(project, cell.assignments)
    with pytest.raises(TaskError, match=r"pretrain\.method\.name = nosuch: allowed are .*'byol'"):
        require_valid(project, [f"{METHOD}=nosuch"])
    with pytest.raises(TaskError, match=r"unknown key pretrain\.method\.temperature"):
        require_valid(project, [f"{METHOD}=byol", "pretrain.method.temperature=0.1"])


def test_encoder_keeps_its_readout_when_its_network_changes(project):
    before = load_params(project / "params.yaml").pretrain.encoder.readout
    change_settings(project, ["pretrain.encoder.name=resnet18"])
    assert load_params(project / "params.yaml").pretrain.encoder.readout == before


def test_unknown_preset_lists_those_that_exist(project):
    (project / "examples").mkdir()
    (project / "examples" / "tiny.yaml").write_text("{}\n")
    with pytest.raises(TaskError, match="there are tiny"):
        change_settings(project, presets=["tinny"])


def test_presets_are_merged_in_their_order(project):
    (project / "examples" / "methods").mkdir(parents=True)
    (project / "examples" / "one.yaml").write_text("pretrain: {epochs: 41, batch_size: 64}\n")
    (project / "examples" / "methods" / "two.yaml").write_text("pretrain: {epochs: 40}\n")
    change_settings(project, presets=["one", "methods/two"])
    params = load_params(project / "params.yaml")
    assert (params.pretrain.epochs, params.pretrain.batch_size) == (40, 64)
    with pytest.raises(TaskError, match="there are methods/two, one"):
        change_settings(project, presets=["two"])


@pytest.mark.parametrize(
    "path", sorted((HERE / "examples" / "methods").glob("*.yaml")), ids=lambda p: p.stem
)
def test_every_preset_of_a_method_says_how_to_pretrain_with_it(project, path):
    shutil.copytree(path.parent, project / "examples" / "methods")
    needed = [] if ENCODER_FOR.get(path.stem) == VIT else ENCODER_FOR.get(path.stem, [])
    change_settings(project, needed, [f"methods/{path.stem}"])
    assert set(read_yaml(path)) == {"pretrain"}
    assert load_params(project / "params.yaml").pretrain.method.name == path.stem


@pytest.mark.parametrize("path", sorted((HERE / "examples").glob("*.yaml")), ids=lambda p: p.stem)
def test_every_preset_of_the_repository_is_valid(project, path):
    (project / "examples").mkdir()
    shutil.copy(path, project / "examples")
    data = project / read_yaml(path)["data"]["path"]
    data.parent.mkdir(exist_ok=True)
    data.touch()
    change_settings(project, presets=[path.stem])
    params = load_params(project / "params.yaml")
    assert params.register_.name == read_yaml(path)["register"]["name"]
