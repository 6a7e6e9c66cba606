import copy
from pathlib import Path

import pytest
from pydantic import BaseModel

from tasks.errors import TaskError
from tasks.settings.loading import load_params, validate_params
from tasks.settings.project_files import read_yaml
from tasks.settings.reference import reference
from tasks.settings.schema import Params

ROOT = Path(__file__).parents[3]


@pytest.fixture
def raw():
    return read_yaml(ROOT / "params.yaml")


def changed(raw, dotted, value):
    raw = copy.deepcopy(raw)
    *parents, last = dotted.split(".")
    group = raw
    for key in parents:
        group = group[key]
    group[last] = value
    return raw


def test_shipped_files_are_valid():
    for path in [ROOT / "params.yaml"]:
        assert isinstance(load_params(path), Params)


def test_shipped_file_holds_every_key_so_that_code_defaults_change_no_result(raw):
    def keys(value, prefix=""):
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from keys(inner, f"{prefix}{key}.")
        else:
            yield prefix

    dumped = validate_params(raw).model_dump(mode="json", by_alias=True)
    # The control names only what differs from the learner, which holds the rest.
    del dumped["finetune"]["control"], raw["finetune"]["control"]
    assert set(keys(dumped)) == set(keys(raw))


def test_the_control_follows_the_learner_but_for_what_it_says_itself(raw):
    raw = changed(raw, "finetune.learner.steps", 7)
    raw = changed(raw, "finetune.control", {"learner": {"lr": 0.5}, "augmentation": {"blur": 1}})
    finetune = validate_params(raw).finetune
    assert finetune.control.learner == finetune.learner.model_copy(update={"lr": 0.5})
    assert finetune.control.augmentation == finetune.augmentation.model_copy(update={"blur": 1.0})


def test_the_control_gets_the_same_number_of_steps(raw):
    with pytest.raises(TaskError, match=r"finetune: .*same steps \(steps differs\)"):
        validate_params(changed(raw, "finetune.control.learner.steps", 100))


def test_a_wrong_key_in_the_control_is_named(raw):
    with pytest.raises(
        TaskError, match=r"unknown key finetune\.control\.learner\.lrr; did you mean"
    ):
        validate_params(changed(raw, "finetune.control.learner.lrr", 1))


@pytest.mark.parametrize(
    ("typo", "meant"),
    [
        ("pretrain.epoch", "pretrain.epochs"),
        ("finetune.label_fracton", "finetune.label_fraction"),
        ("finetune.learner.label_smothing", "finetune.learner.label_smoothing"),
        ("pretrain.method.temprature", "pretrain.method.temperature"),
        ("pretrain.augmentation.crop_scal", "pretrain.augmentation.crop_scale"),
        ("gate.require_gains", "gate.require_gain"),
        ("registre", "register"),
    ],
)
def test_unknown_key_is_named_with_the_nearest_valid_one(raw, typo, meant):
    with pytest.raises(TaskError, match=f"unknown key {typo}; did you mean {meant}?"):
        validate_params(changed(raw, typo, 1))


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [
        ("finetune.label_fraction", 2, "less than or equal to 1"),
        ("pretrain.epochs", 0, "greater than or equal to 1"),
        ("pretrain.epochs", "many", "valid integer"),
        ("data.source", "imagenet", "fashion-mnist"),
        ("pretrain.augmentation.engine", "dali", "batched"),
        ("finetune.learner.ema", 7, "less than 1"),
        ("register.name", "a b/c", "pattern"),
        ("register.name", "foo..bar", "pattern"),
        ("register.name", "x.lock", "pattern"),
    ],
)
def test_bad_value_tells_key_value_and_what_is_allowed(raw, key, value, allowed):
    with pytest.raises(TaskError) as caught:
        validate_params(changed(raw, key, value))
    assert key in str(caught.value)
    assert repr(value) in str(caught.value)
    assert allowed in str(caught.value)


def test_unknown_learner_lists_the_known_ones(raw):
    with pytest.raises(TaskError, match=r"finetune\.learner\.name = magic: .*'linear-probe'"):
        validate_params(changed(raw, "finetune.learner", {"name": "magic"}))


def test_all_problems_are_told_at_once(raw):
    twice = changed(changed(raw, "pretrain.epochs", 0), "finetune.draws", 0)
    with pytest.raises(TaskError, match=r"(?s)pretrain\.epochs.*finetune\.draws"):
        validate_params(twice)


def test_missing_group_is_named(raw):
    del raw["finetune"]
    with pytest.raises(TaskError, match="finetune is missing"):
        validate_params(raw)


def test_file_that_is_not_yaml_names_the_line(tmp_path):
    (tmp_path / "params.yaml").write_text("data:\n  source: [folder\n")
    with pytest.raises(TaskError, match=r"not valid YAML: .*line"):
        load_params(tmp_path / "params.yaml")


def test_duplicate_key_is_refused(tmp_path):
    (tmp_path / "params.yaml").write_text("data:\n  seed: 1\n  seed: 2\n")
    with pytest.raises(TaskError, match="duplicate key"):
        load_params(tmp_path / "params.yaml")


def test_missing_file_says_where_to_stand(tmp_path):
    with pytest.raises(TaskError, match="project's folder"):
        load_params(tmp_path / "params.yaml")


def test_reference_is_the_one_in_docs_and_describes_every_key():
    text = reference()
    assert text == (ROOT / "docs" / "reference" / "params.md").read_text()
    undescribed = [line for line in text.splitlines() if line.endswith("|  |")]
    assert not undescribed

    def names(model: type[BaseModel]):
        return {info.alias or name for name, info in model.model_fields.items()}

    for group in names(Params):
        assert f"## {group}" in text
