"""A champion is held against a challenger by one rule, whatever it was measured on before."""

import json
import subprocess
import sys
import unicodedata

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from ruamel.yaml import YAML

from data.images.reading import to_canvas
from data.packing.pack import pack
from data.sources.params import DataParams
from data.store.packed_store import PackedStore, read_test_labels
from tasks.errors import TaskError
from tasks.evaluation import test_set
from tasks.evaluation.confidence_intervals import Measured
from tasks.promotion.champion_evaluation import Evaluation, OnTestSet, best_classes
from tasks.promotion.gate import judge
from tasks.promotion.originals import write_as_taken
from tasks.promotion.rules import against_champion, compared
from tasks.registry.registration import register
from tasks.serving.model import build_served_model
from tasks.settings.schema import GateParams
from tests.tasks import conftest
from tests.tasks.conftest import git, metrics, publish, uri, write_artifacts, write_json

ODD_NAMES = ["001", "2024-01-01", "None", "[red]", "a/b; c", "nan", "naïve", "prob_x", "true"]
DVC_YAML = """\
stages:
  prepare: {cmd: none, outs: [artifacts/prepare/store]}
  finetune: {cmd: none, outs: [artifacts/finetune/learners.json]}
"""


@pytest.fixture
def pictures(project):
    """The project with 40 colour photographs of each class, none of them packed yet."""
    for name in conftest.CLASSES:
        photograph(project, name, range(40))
    settings(project, source="folder", path="pics", size=16, channels=1, test_fraction=0.5)
    return project


def photograph(root, name, numbers):
    folder = root / "pics" / name
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        random = np.random.default_rng([*name.encode(), number])
        pixels = random.integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


def settings(root, **data):
    params = YAML(typ="safe").load(root / "params.yaml")
    params["data"] |= data
    YAML().dump(params, root / "params.yaml")


def prepare(root):
    """Packs the photographs as params.yaml says; gives store and test set."""
    data = DataParams(**YAML(typ="safe").load(root / "params.yaml")["data"])
    pack(data.model_copy(update={"path": str(root / data.path)}), root / "artifacts" / "prepare")
    store = PackedStore.open(root / "artifacts" / "prepare" / "store")
    labels = read_test_labels(root / "artifacts" / "prepare")["label"].to_numpy()
    return store, test_set.TestSet.of(store, store.rows("test"), labels)


def contend(root, seed, share, abstention=None, rows=(), classes=None, answered=None):
    """A version of the packed photographs, right on a share of the test set; gives its verdict."""
    write_artifacts(root, seed=seed)
    store, test = prepare(root)
    learners = root / "artifacts" / "finetune" / "learners.json"
    described = json.loads(learners.read_text()) | {"abstention": abstention}
    described["arms"]["pretrained"][0]["rows"] = list(rows)
    write_json(learners, described)
    evaluate = root / "artifacts" / "evaluate"
    known = classes or store.classes
    found = metrics(share, test.digest) | {"recall": dict.fromkeys(known, share)}
    if answered is not None:
        found["abstention"] = {"threshold": 0.5, "answered": answered}
    write_json(evaluate / "metrics.json", found)
    wrong = np.random.default_rng(seed).random(len(test.labels)) >= share
    predicted = np.where(wrong, (test.labels + 1) % len(store.classes), test.labels)
    table = {"id": test.ids, "label": test.labels, "predicted": predicted}
    columns = {f"correct_pretrained_{draw}": ~wrong for draw in range(5)}
    pd.DataFrame(table | columns).to_parquet(evaluate / "predictions.parquet")
    commit_outputs(root, f"run-{seed}")
    publish(root, f"run-{seed}", stages=["evaluate"])
    made = register(root, f"run-{seed}", uri(root), pushed=True)
    return judge(root, made.version, uri(root))


def commit_outputs(root, message):
    """DVC's cache has the outputs, dvc.lock in git their names; without DVC neither has."""
    if (root / ".dvc").is_dir():
        command = [sys.executable, "-P", "-m", "dvc", "commit", "--force", "-q"]
        subprocess.run(command, cwd=root, check=True)
    git(root, "add", "-A")
    git(root, "commit", "-q", "--allow-empty", "-m", message)


def served(root):
    """The model of the present artifacts."""
    described = json.loads((root / "artifacts/finetune/learners.json").read_text())
    weights = root / "artifacts/finetune/classifiers/pretrained-0.safetensors"
    return build_served_model(described, weights)


def recognised(root):
    """Tells which originals of a later test set the model of the present artifacts recognises."""
    model = served(root)

    def right(store, test):
        sources = pd.read_parquet(root / "artifacts/prepare/test_sources.parquet")
        paths = sources.set_index("id")["source"].loc[test.ids]
        said = model.predict([str(root / "pics" / path) for path in paths])["guess"]
        known = [unicodedata.normalize("NFC", name) for name in said]
        return np.array(known) == np.array(store.classes)[test.labels]

    return right


def conditions(verdict):
    return next(reason for reason in verdict.reasons if "beyond noise" in reason)


@pytest.mark.slow
@pytest.mark.parametrize("abstains", ["from half", "from all"])
def test_a_champion_that_abstains_is_scored_by_its_best_class(pictures, abstains):
    write_artifacts(pictures, seed=1)
    store, _ = prepare(pictures)
    sure = served(pictures).predict(store.gather(np.arange(len(store))))["confidence"]
    threshold = None if abstains == "from all" else float(sure.median())
    contend(pictures, 1, 0.9, {"threshold": threshold})
    right = recognised(pictures)
    settings(pictures, seed=1)
    verdict = contend(pictures, 2, 1.0)
    assert verdict.gain.mean == pytest.approx(1 - right(*prepare(pictures)).mean())
    assert "on 60 of 60 test images (champion 1 was measured on other" in conditions(verdict)
    assert "DVC's cache lacks what it was made of" in conditions(verdict)


@pytest.mark.slow
def test_classes_of_any_name_and_spelling_are_known_again(project, monkeypatch):
    composed = [name.replace("/", "∕") for name in ODD_NAMES]
    decomposed = [unicodedata.normalize("NFD", name) for name in composed]
    monkeypatch.setattr(conftest, "CLASSES", decomposed)
    for name in decomposed:
        photograph(project, name, range(8))
    settings(project, source="folder", path="pics", size=16, channels=1, test_fraction=0.5)
    assert contend(project, 1, 0.9, {"threshold": None}).promoted
    right = recognised(project)
    monkeypatch.setattr(conftest, "CLASSES", composed)
    (project / "pics" / decomposed[6]).rename(project / "pics" / composed[6])
    verdict = contend(project, 2, 1.0)
    right = right(*prepare(project))
    assert 0 < right.sum() < len(right)
    assert verdict.gain.mean == pytest.approx(1 - right.mean())
    assert verdict.promoted, verdict.reasons


@pytest.mark.slow
@pytest.mark.parametrize("change", [{}, {"size": 32, "channels": 3}])
def test_a_champion_sees_the_originals_of_images_whose_labels_it_did_not_learn(pictures, change):
    root = pictures
    (root / "dvc.yaml").write_text(DVC_YAML)
    (root / ".gitignore").write_text("/artifacts\n.instar\nmlflow.db\nmlartifacts\ndata/raw\n")
    (root / "dvc.lock").unlink()
    subprocess.run([sys.executable, "-P", "-m", "dvc", "init", "-q"], cwd=root, check=True)
    store, _ = prepare(root)
    rows = store.rows("train")
    learned, others = (set(store.index["id"].iloc[part]) for part in (rows[:20], rows[20:]))
    contend(root, 1, 0.9, rows=map(int, rows[:20]))
    right = recognised(root)
    settings(root, seed=1, **change)
    verdict = contend(root, 2, 1.0)
    store, test = prepare(root)
    counted = np.array([image not in learned for image in test.ids])
    seen = sum(image in others for image in test.ids)
    assert 0 < counted.sum() < 60 and seen
    assert verdict.gain.mean == pytest.approx(1 - right(store, test)[counted].mean())
    words = conditions(verdict)
    assert f"on {counted.sum()} of 60 test images" in words
    assert f"the {60 - counted.sum()} whose labels it learned from are left out" in words
    assert f"its encoder had seen {seen} of them without a label" in words
    assert ("with the original images at 16 x 16 x 1" in words) == bool(change)


@pytest.mark.slow
def test_new_classes_count_as_wrong_and_are_told(pictures):
    contend(pictures, 1, 0.9)
    photograph(pictures, "hat", range(40))
    verdict = contend(pictures, 2, 0.9)
    assert any("of 20 images champion 1 does not know the class" in r for r in verdict.reasons)
    assert verdict.promoted


@pytest.mark.slow
def test_a_renamed_class_is_refused_by_name_though_every_answer_is_now_wrong(pictures):
    contend(pictures, 1, 0.5)
    (pictures / "pics" / "shoe").rename(pictures / "pics" / "footwear")
    verdict = contend(pictures, 2, 1.0)
    assert (verdict.outcome, verdict.gain.low > 0) == ("refused", True)
    assert "it does not know what the champion knows: 'shoe' (removed, renamed?)" in refused(
        verdict
    )


def refused(verdict):
    return next(reason for reason in verdict.reasons if reason.startswith("FAIL"))


def test_a_challenger_that_answers_nothing_does_not_replace_one_that_answers(pictures):
    contend(pictures, 1, 0.5, answered=0.6)
    verdict = contend(pictures, 2, 1.0, answered=0.0)
    assert verdict.gain.low > 0
    assert verdict.outcome == "refused"
    assert any("it abstains from every test image, and champion 1 answers 60.0%" in reason
               for reason in verdict.reasons)  # fmt: skip


def table(**columns):
    return pd.DataFrame(columns)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (table(label=[None, "a"], guess=["b", "a"], prob_a=[1.0, 1.0]), ["b", "a"]),
        (table(label=["a", "b"], prob_a=[0.9, 0.1], prob_b=[0.1, 0.9]), ["a", "b"]),
        (table(label=[None, None], prob_a=[0.9, 0.1], prob_b=[0.1, 0.9]), ["a", "b"]),
        (table(label=["x", None], guess=["x", None], prob_nan=[0.9, 0.1], prob_1=[0.1, 0.9]),
         ["nan", "1"]),
        (table(prob_prob_a=[0.2], prob_b=[0.1]), ["prob_a"]),
        (table(label=["nan", "None"]), ["nan", "None"]),
        (table(label=[7, 8]), ["7", "8"]),
    ],
)  # fmt: skip
def test_best_classes_are_found_in_the_answers_of_versions_of_all_times(answers, expected):
    assert best_classes(answers, "3") == expected


@pytest.mark.parametrize("answers", [table(label=["a", None]), table(score=[1.0, 2.0])])
def test_answers_that_do_not_tell_the_best_class_are_refused(answers):
    with pytest.raises(TaskError, match="champion version 3 answers without .*archive it"):
        best_classes(answers, "3")


@pytest.fixture
def arrays(project):
    """The project with colour images in an .npz that brings no test set."""
    images = np.random.default_rng(0).integers(0, 256, (60, 20, 24, 3), dtype=np.uint8)
    np.savez(project / "all.npz", train_images=images, train_labels=np.arange(60) % 3)
    settings(project, source="npz", path="all.npz", size=8, channels=1)
    return project


def taken(root, store, rows, size, channels):
    path = root / "taken.npy"
    write_as_taken(root, store, rows, {"size": size, "channels": channels}, "tiny@1", path)
    return np.load(path)


@pytest.mark.parametrize(("size", "channels"), [(8, 1), (8, 3), (16, 1), (32, 3)])
def test_a_model_is_shown_what_it_was_made_for_in_the_order_that_was_asked(arrays, size, channels):
    store, test = prepare(arrays)
    rows = test.rows[::-1]
    images = np.load(arrays / "all.npz")["train_images"]
    names = {store.index["id"].iloc[row]: row for row in rows}
    from data.samples import id_of

    places = {id_of(f"train_images/{number:07d}"): number for number in range(60)}
    expected = [to_canvas(images[places[name]], size, channels) for name in names]
    np.testing.assert_array_equal(taken(arrays, store, rows, size, channels), expected)


@pytest.mark.parametrize("damage", ["gone", "altered", "fewer"])
def test_originals_that_are_not_those_packed_are_not_shown(arrays, damage):
    store, test = prepare(arrays)
    if damage == "gone":
        (arrays / "all.npz").unlink()
    else:
        held = np.load(arrays / "all.npz")
        images, labels = held["train_images"].copy(), held["train_labels"]
        images[:] = 255 - images
        part = slice(None) if damage == "altered" else slice(30)
        np.savez(arrays / "all.npz", train_images=images[part], train_labels=labels[part])
    with pytest.raises(
        TaskError, match="tiny@1 takes images of another size .*all.npz.*dvc checko"
    ):
        taken(arrays, store, test.rows, 16, 3)


def evaluation(right, classes="abc", labels=None, answered=None):
    """Of six images of three classes, with the same answers in each of five draws."""
    right = np.array([mark == "1" for mark in right])
    labels = np.arange(len(right)) % 3 if labels is None else labels
    frame = {"label": labels, "predicted": np.where(right, labels, labels - 1)}
    frame |= {f"correct_pretrained_{draw}": right for draw in range(5)}
    abstention = None if answered is None else {"answered": answered}
    found = {"recall": dict.fromkeys(classes, 0.5), "abstention": abstention}
    return Evaluation(pd.DataFrame(frame), found)


def ruled(ours, theirs, counted="111111", known="111111", untested=()):
    counted, known = (np.array([mark == "1" for mark in marks]) for marks in (counted, known))
    measured = Measured(theirs.all_right[:, counted])
    tested = OnTestSet(counted, measured, known[counted], untested)
    gain, change = compared(ours, tested, False) if counted.any() else (None, {})
    found = against_champion(GateParams(), "1", ours, theirs, tested, gain, change)
    return [finding.words for finding in found if not finding.holds]


@pytest.mark.parametrize(
    ("ours", "theirs", "how", "said"),
    [
        (evaluation("111111"), evaluation("000000"), {}, None),
        (evaluation("111111"), evaluation("000000", "abcd"), {}, "champion knows: 'd' (removed"),
        (evaluation("111111", "abcd"), evaluation("000000"), {}, None),
        (evaluation("111111"), evaluation("000000"), {"untested": ("d",)}, "no image any more"),
        (evaluation("111111"), evaluation("000000"), {"counted": "000000"}, "learned the labels"),
        (evaluation("111111"), evaluation("000000"), {"counted": "110110"}, None),
        (evaluation("111111"), evaluation("000000"), {"known": "000000"}, "no class of the test"),
        (evaluation("001001" * 99), evaluation("110000" * 99), {"counted": "1" * 594,
         "known": "110110" * 99}, "the challenger is worse on the others"),
        (evaluation("111111", answered=0.0), evaluation("000000"), {}, "abstains from every"),
        (evaluation("111111", answered=0.0), evaluation("000000", answered=0.0), {}, None),
        (evaluation("111111", answered=0.1), evaluation("000000", answered=0.9), {}, None),
        (evaluation("111111"), evaluation("000000", answered=0.0), {}, None),
    ],
)  # fmt: skip
def test_what_a_comparison_must_not_pass_over_is_said(ours, theirs, how, said):
    failed = ruled(ours, theirs, **how)
    assert (failed == []) if said is None else any(said in words for words in failed), failed
