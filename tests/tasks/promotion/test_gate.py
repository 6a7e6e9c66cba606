import json

import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from data.store.packed_store import FORMAT, PackedStore
from tasks.errors import TaskError
from tasks.evaluation import test_set
from tasks.promotion.gate import judge
from tasks.registry import transitions
from tasks.registry.aliases import standing
from tasks.registry.move import Move
from tasks.registry.promotion_log import promotions
from tasks.registry.registration import judged_version, register
from tasks.registry.transitions import move
from tasks.tracking.client import connect
from tests.tasks.conftest import (
    CLASSES,
    FIT,
    metrics,
    predictions,
    publish,
    uri,
    write_artifacts,
    write_json,
)


def challenge(root, number, **artifacts):
    """A flow run that ends at the gate."""
    write_artifacts(root, seed=number, **artifacts)
    publish(root, f"run-{number}", stages=["evaluate"])
    made = register(root, f"run-{number}", uri(root), pushed=True)
    return judge(root, made.version, uri(root))


def champion(root):
    return standing(connect(uri(root)), "tiny").get("champion")


def place(root, version):
    return connect(uri(root)).get_model_version("tiny", version).current_stage


def test_the_first_model_is_promoted_if_it_beats_its_control(project):
    verdict = challenge(project, 1)
    assert verdict.promoted
    assert (verdict.champion, champion(project)) == (None, "1")
    assert place(project, "1") == "Production"
    assert any("from-scratch" in reason for reason in verdict.reasons)
    assert any("over 5 draws of labels" in reason for reason in verdict.reasons)


def test_a_model_that_does_not_beat_its_control_is_refused(project):
    verdict = challenge(project, 1, gain_low=-0.01)
    assert verdict.outcome == "refused"
    assert (champion(project), place(project, "1")) == (None, "Staging")
    assert any("does not beat its from-scratch control" in reason for reason in verdict.reasons)


def test_the_control_may_be_left_out_by_the_settings(project):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("0.1}", "0.1, require_gain: false}"))
    assert challenge(project, 1, gain_low=-0.01).promoted


def test_one_label_draw_cannot_pass(project):
    verdict = challenge(project, 1, gain_low=None)
    assert not verdict.promoted
    assert any("raise finetune.draws" in reason for reason in verdict.reasons)


def test_one_label_draw_passes_where_no_gain_is_required(project):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("0.1}", "0.1, require_gain: false}"))
    assert challenge(project, 1, gain_low=None).promoted


def test_a_version_registered_by_hand_cannot_be_judged(project):
    challenge(project, 1)
    client = connect(uri(project))
    source = client.get_model_version("tiny", "1").source
    made = client.create_model_version("tiny", source)
    with pytest.raises(TaskError, match="version 2 was registered by hand, .* `instar run`"):
        judge(project, made.version, uri(project))


def test_each_reason_says_whether_its_rule_was_kept(project):
    challenge(project, 1, right=90)
    verdict = challenge(project, 2, right=92)
    marks = [reason.partition(": ")[::2] for reason in verdict.reasons]
    assert [(mark, words[:15]) for mark, words in marks] == [
        ("pass", "beats its from-"),
        ("FAIL", "not better than"),
        ("pass", "no class lost m"),
    ]
    kept = json.loads((project / verdict.path).read_text())
    assert kept["reasons"] == verdict.reasons


def test_the_first_model_must_know_every_class(project, monkeypatch):
    blind = predictions(1, 120)
    blind.loc[blind["label"] == 1, "predicted"] = 0
    monkeypatch.setattr("tests.tasks.conftest.predictions", lambda *_: blind)
    write_artifacts(project, 1)
    monkeypatch.undo()
    blind.to_parquet(project / "artifacts/evaluate/predictions.parquet")
    publish(project, "run-1", stages=["evaluate"])
    made = register(project, "run-1", uri(project), pushed=True)
    verdict = judge(project, made.version, uri(project))
    assert not verdict.promoted
    assert any("never recognises: 1" in reason for reason in verdict.reasons)


def test_a_clearly_better_challenger_replaces_the_champion(project):
    challenge(project, 1, right=80)
    verdict = challenge(project, 2, right=115)
    assert verdict.promoted
    assert (verdict.champion, champion(project)) == ("1", "2")
    assert (place(project, "1"), place(project, "2")) == ("Archived", "Production")
    assert verdict.gain.mean == pytest.approx(35 / 120)
    last = promotions(project)[-1]
    assert (last["version"], last["to"]) == ("2", "champion")
    assert last["evidence"]["verdict"] == ".instar/verdicts/tiny-v2.json"


def test_a_challenger_within_noise_is_refused_and_the_verdict_is_kept(project):
    challenge(project, 1, right=90)
    verdict = challenge(project, 2, right=92)
    assert verdict.outcome == "refused"
    assert verdict.gain.low <= 0 < verdict.gain.mean
    assert (champion(project), place(project, "2")) == ("1", "Staging")
    kept = json.loads((project / ".instar/verdicts/tiny-v2.json").read_text())
    assert (kept["promoted"], kept["champion"]) == (False, "1")
    assert any("not better than champion 1 beyond noise" in line for line in kept["reasons"])
    tags = connect(uri(project)).get_model_version("tiny", "2").tags
    assert (tags["gate"], tags["gate_champion"]) == ("refused", "1")
    assert float(tags["gate_gain_mean"]) == pytest.approx(2 / 120, abs=1e-5)


def test_a_challenger_of_one_draw_is_refused_and_the_remedy_is_said(project, monkeypatch):
    challenge(project, 1, right=80)
    monkeypatch.setitem(FIT, "rows", [5, 6])
    lone = predictions(2, 115, draws=1)
    monkeypatch.setattr("tests.tasks.conftest.predictions", lambda *_: lone)
    verdict = challenge(project, 2, right=115)
    assert verdict.outcome == "refused"
    assert (verdict.gain.low, champion(project)) == (None, "1")
    assert any("one label draw is not enough to say" in r and "raise finetune.draws" in r
               for r in verdict.reasons)  # fmt: skip


def test_all_draws_count_not_the_registered_one_alone(project):
    challenge(project, 1, right=90)
    write_artifacts(project, seed=2, right=110)
    table = predictions(2, 110)
    for draw in range(1, 5):
        table[f"correct_pretrained_{draw}"] = predictions(1, 90)[f"correct_pretrained_{draw}"]
    table.to_parquet(project / "artifacts/evaluate/predictions.parquet")
    publish(project, "run-2", stages=["evaluate"])
    made = register(project, "run-2", uri(project), pushed=True)
    verdict = judge(project, made.version, uri(project))
    assert verdict.outcome == "refused"
    assert verdict.gain.mean == pytest.approx((110 - 90) / 120 / 5)


def test_a_better_challenger_that_loses_a_class_is_refused(project):
    challenge(project, 1, right=60)
    write_artifacts(project, seed=2, right=120)
    lost = predictions(2, 120)
    lost.loc[lost["label"] == 2, "predicted"] = 0
    lost.to_parquet(project / "artifacts/evaluate/predictions.parquet")
    publish(project, "run-2", stages=["evaluate"])
    made = register(project, "run-2", uri(project), pushed=True)
    verdict = judge(project, made.version, uri(project))
    assert verdict.gain.low > 0
    assert verdict.outcome == "refused"
    assert verdict.class_change["2"] < -0.1
    assert any("recall fell by more than 10% for: 2" in reason for reason in verdict.reasons)


def test_a_lost_champion_is_not_replaced_unopposed(project):
    challenge(project, 1)
    connect(uri(project)).delete_registered_model_alias("tiny", "champion")
    with pytest.raises(TaskError, match="version 1 of tiny is champion.*give version 1 the alias"):
        challenge(project, 2, right=115)
    assert champion(project) is None
    connect(uri(project)).set_registered_model_alias("tiny", "champion", "1")
    assert judge(project, "2", uri(project)).champion == "1"


def test_a_champion_that_was_archived_on_purpose_is_not_missed(project):
    challenge(project, 1)
    move(Move("tiny", "1", "archived", "Ada", "withdrawn"), project, uri(project))
    assert challenge(project, 2).promoted


def test_a_promotion_that_broke_off_is_mended_by_the_next_run(project):
    challenge(project, 1)
    client = connect(uri(project))
    client.transition_model_version_stage("tiny", "1", "Staging")
    client.delete_registered_model_alias("tiny", "production")
    assert challenge(project, 1).outcome == "same model"
    assert place(project, "1") == "Production"
    assert str(client.get_model_version_by_alias("tiny", "production").version) == "1"


def test_a_promotion_that_broke_off_before_its_first_write_is_no_rivals(project, monkeypatch):
    challenge(project, 1, right=80)
    write_artifacts(project, seed=2, right=115)
    publish(project, "run-2", stages=["evaluate"])
    register(project, "run-2", uri(project), pushed=True)

    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(transitions, "_complete", die)
        with pytest.raises(KeyboardInterrupt):
            judge(project, "2", uri(project))
    assert champion(project) == "1"
    again = judge(project, "2", uri(project))
    assert (again.outcome, again.champion, champion(project)) == ("same model", "1", "2")


def test_a_verdict_whose_tags_broke_off_is_given_anew(project, monkeypatch):
    write_artifacts(project, seed=1, gain_low=-0.01)
    publish(project, "run-1", stages=["evaluate"])
    made = register(project, "run-1", uri(project), pushed=True)
    write = MlflowClient.set_model_version_tag

    def die_at_the_reasons(client, name, version, key, value):
        if key == "gate_reasons":
            raise KeyboardInterrupt
        write(client, name, version, key, value)

    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_model_version_tag", die_at_the_reasons)
        with pytest.raises(KeyboardInterrupt):
            judge(project, made.version, uri(project))
    assert judged_version(project, uri(project)) is None
    assert not judge(project, made.version, uri(project)).repeated
    assert judged_version(project, uri(project)) == "1"


def test_the_same_weights_move_nothing(project):
    challenge(project, 1)
    before = promotions(project)
    verdict = challenge(project, 1)
    assert (verdict.outcome, verdict.place) == ("same model", "champion")
    assert not verdict.promoted
    assert (champion(project), promotions(project)) == ("1", before)


@pytest.mark.parametrize(
    ("threshold", "said"),
    [(0.4, "but abstains below a confidence of 0.4, whereas the champion never abstains"),
     (None, "but abstains from every image, whereas the champion never abstains")],
)  # fmt: skip
def test_the_same_weights_that_abstain_otherwise_are_left_to_a_human(project, threshold, said):
    challenge(project, 1)
    found = metrics(90 / 120) | {"abstention": {"threshold": threshold, "answered": 0.5}}
    write_json(project / "artifacts/evaluate/metrics.json", found)
    register(project, "run-1", uri(project), pushed=True)
    verdict = judge(project, "2", uri(project))
    assert (verdict.outcome, champion(project)) == ("same model", "1")
    assert said in verdict.reasons[0] and "`instar promote tiny@2" in verdict.reasons[0]


def test_an_unchanged_champion_keeps_the_verdict_that_made_it_one(project):
    first = challenge(project, 1)
    kept = (project / first.path).read_text()
    again = challenge(project, 1)
    assert (again.outcome, again.repeated) == ("same model", True)
    assert again.reasons == first.reasons
    assert (project / first.path).read_text() == kept
    assert connect(uri(project)).get_model_version("tiny", "1").tags["gate"] == "promoted"


def test_an_unchanged_refusal_is_repeated_until_something_speaks_for_the_version(project):
    first = challenge(project, 1, gain_low=-0.01)
    again = challenge(project, 1, gain_low=-0.01)
    assert not first.repeated
    assert (again.outcome, again.reasons, again.repeated) == ("refused", first.reasons, True)
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("0.1}", "0.1, require_gain: false}"))
    other_rules = challenge(project, 1, gain_low=-0.01)
    assert (other_rules.outcome, other_rules.repeated) == ("promoted", False)
    assert champion(project) == "1"


def test_a_verdict_of_another_life_of_the_database_is_not_repeated(project):
    first = challenge(project, 1, gain_low=-0.01)
    connect(uri(project)).delete_model_version_tag("tiny", "1", "gate")
    assert not judge(project, first.version, uri(project)).repeated


def challenge_with_another_test_set(root):
    """Version 2, measured on images of the present store; gives the champion's accuracy there."""
    challenge(root, 1)
    write_artifacts(root, seed=2, right=118)
    theirs = measure_on_new_test_set(root)
    publish(root, "run-2", stages=["evaluate"])
    register(root, "run-2", uri(root), pushed=True)
    return theirs


def measure_on_new_test_set(root):
    theirs = write_store(root)
    write_json(root / "artifacts/evaluate/metrics.json", metrics(118 / 120, present_digest(root)))
    return theirs


def present_digest(root):
    store = PackedStore.open(root / "artifacts" / "prepare" / "store")
    return test_set.TestSet.of(
        store, np.arange(120), predictions(2, 118)["label"].to_numpy()
    ).digest


def test_the_champions_weights_on_another_test_set_stand_where_they_are_put(project):
    challenge(project, 1)
    verdict = challenge(project, 1, test_digest="test-2")
    assert (verdict.version, verdict.outcome, verdict.place) == ("2", "same model", "challenger")
    assert (champion(project), place(project, "2")) == ("1", "Staging")


def test_a_champion_of_another_test_set_is_scored_on_the_present_one(project):
    theirs = challenge_with_another_test_set(project)
    verdict = judge(project, "2", uri(project))
    assert verdict.champion == "1"
    assert verdict.gain.mean == pytest.approx(118 / 120 - theirs)
    assert verdict.gain.low < verdict.gain.mean < verdict.gain.high


def test_images_of_the_same_names_with_other_pixels_are_not_taken_for_the_test_set(project):
    challenge_with_another_test_set(project)
    index = project / "artifacts/prepare/store/index.parquet"
    table = pd.read_parquet(index)
    table["sha256"] = "of other pixels"
    table.to_parquet(index)
    with pytest.raises(TaskError, match="lacks the challenger's"):
        judge(project, "2", uri(project))


def write_store(root):
    """A real packed store of the test images; gives the champion's true accuracy on them."""
    import hashlib

    import pyarrow as pa
    import pyarrow.parquet as pq

    from tasks.serving.model import build_served_model

    count = 120
    store = root / "artifacts" / "prepare" / "store"
    images = np.random.default_rng(0).integers(0, 256, (count, 16, 16, 1), dtype=np.uint8)
    np.save(store / "images-00000.npy", images)
    truth = predictions(2, 118)
    index = pd.DataFrame({"id": truth["id"], "source": truth["id"], "sha256": "", "split": "test"})
    index["label"] = pd.array([None] * count, dtype="Int64")
    index["reason"] = pd.array([None] * count, dtype="string")
    pq.write_table(pa.Table.from_pandas(index, preserve_index=False), store / "index.parquet")
    shard = {"name": "images-00000.npy", "images": count, "sha256": hashlib.sha256().hexdigest()}
    manifest = {
        "format": FORMAT, "size": 16, "channels": 1, "count": count, "classes": CLASSES,
        "shards": [shard], "digest": "e" * 64,
    }  # fmt: skip
    (store / "manifest.json").write_text(json.dumps(manifest))
    from tests.tasks.conftest import write_classifier

    write_classifier(root / "former", 1)
    described = json.loads((root / "former" / "learners.json").read_text())
    weights = root / "former" / "classifiers" / "pretrained-0.safetensors"
    champion = build_served_model(described, weights)
    said = champion.predict(images)["label"].to_numpy()
    return float((said == np.array(CLASSES)[truth["label"]]).mean())
