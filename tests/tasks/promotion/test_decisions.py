"""Promote, approve, reject, roll back, and what the log answers."""

import json

import pytest

from tasks.errors import TaskError
from tasks.evaluation.confidence_intervals import Interval
from tasks.promotion import verdict as promotion_verdict
from tasks.promotion.approval import decide, note_waiting, verdict_on
from tasks.promotion.decisions import promote, rollback
from tasks.promotion.gate import judge
from tasks.promotion.history import history, versions
from tasks.promotion.verdict import tags_of
from tasks.registry import registration, transitions
from tasks.registry.move import Move
from tasks.registry.promotion_log import PROMOTIONS, former_champions, promotions
from tasks.registry.transitions import move, set_tags
from tasks.tracking.client import connect
from tests.tasks.conftest import publish, uri, write_artifacts
from tests.tasks.small_registry import make_registry


@pytest.fixture
def root(tmp_path, empty_database):
    return make_registry(tmp_path / "checkout", empty_database)


def champion(root):
    return str(connect(uri(root)).get_model_version_by_alias("tiny", "champion").version)


def stage(root, version):
    return connect(uri(root)).get_model_version("tiny", version).current_stage


def verdict(root, version, outcome, champion="1"):
    """The gate's word, as it leaves it on a version."""
    gain = Interval(0.1, 0.05, 0.15, 5)
    said = promotion_verdict.Verdict("tiny", version, champion, outcome, ["pass: better"], gain)
    set_tags(connect(uri(root)), "tiny", version, tags_of(said))


def test_staging_and_archive_ask_nobody_and_are_logged(root):
    done = promote(root, "tiny@3", "Staging", "to try", tracking_uri=uri(root))
    assert (done.outcome, stage(root, "3"), stage(root, "2")) == ("moved", "Staging", "Archived")
    assert promotions(root)[-1]["why"] == "to try"
    assert promote(root, "tiny@3", "staging", tracking_uri=uri(root)).outcome == "unchanged"
    assert promote(root, "tiny@3", "Archived", tracking_uri=uri(root)).stage == "Archived"
    with pytest.raises(TaskError, match="not a stage: it is Production, Staging, Archived"):
        promote(root, "tiny@3", "Prod", tracking_uri=uri(root))


def test_production_needs_a_verdict_against_the_present_champion(root):
    verdict(root, "2", "promoted")
    done = promote(root, "tiny@2", "Production", tracking_uri=uri(root))
    assert (done.outcome, done.replaced, champion(root)) == ("moved", "1", "2")
    last = promotions(root)[-1]
    assert last["evidence"]["verdict"] == ".instar/verdicts/tiny-v2.json"
    assert last["evidence"]["gain"]["mean"] == pytest.approx(0.1)
    assert last["who"] == "Ada <ada@example.org>"
    # That of version 3 was given against version 1, and nobody can judge it anew.
    verdict(root, "3", "promoted")
    with pytest.raises(TaskError, match="no evaluation to judge"):
        promote(root, "tiny@3", "Production", tracking_uri=uri(root))
    assert champion(root) == "2"


def test_an_override_needs_a_reason_and_the_log_tells_of_it(root):
    verdict(root, "2", "refused")
    with pytest.raises(TaskError, match="--reason"):
        promote(root, "tiny@2", "Production", override=True, tracking_uri=uri(root))
    promote(root, "tiny@2", "Production", "a customer waits", True, tracking_uri=uri(root))
    last = promotions(root)[-1]
    assert (champion(root), last["why"]) == ("2", "a customer waits")
    assert last["evidence"]["overridden"] == "pass: better"


def test_the_gate_that_is_asked_says_why_not(project):
    for seed, run, right in ((1, "run-1", 100), (2, "run-2", 101)):
        write_artifacts(project, seed=seed, right=right)
        publish(project, run, stages=["evaluate"])
        made = registration.register(project, run, uri(project), pushed=True)
        if run == "run-1":
            judge(project, made.version, uri(project))
    done = promote(project, "tiny@2", "Production", tracking_uri=uri(project))
    assert done.outcome == "refused"
    assert any("not better than champion 1" in reason for reason in done.reasons)
    assert champion(project) == "1"
    set_tags(connect(uri(project)), "tiny", "2", {"gate": "promoted", "gate_champion": "0"})
    done = promote(project, "tiny@2", "Production", tracking_uri=uri(project))
    assert done.reasons[0].startswith("version 1 has become champion since its last verdict, pro")


def test_with_human_approval_what_passed_waits_and_moves_when_approved(project):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("0.1}", "0.1, approval: human}"))
    write_artifacts(project, seed=1)
    publish(project, "run-1", stages=["evaluate"])
    made = registration.register(project, "run-1", uri(project), pushed=True)
    waits = judge(project, made.version, uri(project))
    assert (waits.outcome, waits.place, waits.promoted) == ("waiting", "challenger", False)
    assert judge(project, made.version, uri(project)).repeated
    with pytest.raises(TaskError, match="--approve"):
        promote(project, "tiny@1", "Production", tracking_uri=uri(project))
    decide(project, "tiny@1", True, "looks right", tracking_uri=uri(project))
    last = promotions(project)[-1]
    assert (champion(project), last["why"]) == ("1", "looks right")
    kept = json.loads((project / ".instar/verdicts/tiny-v1.json").read_text())
    assert kept["outcome"] == "promoted"
    assert kept["reasons"][-1] == "approved by Ada <ada@example.org>: looks right"
    assert judge(project, made.version, uri(project)).repeated
    with pytest.raises(TaskError, match="does not wait"):
        decide(project, "tiny@1", True, "again", tracking_uri=uri(project))


def test_a_rejected_version_is_not_promoted_by_the_gate_again(project):
    text = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(text.replace("0.1}", "0.1, approval: human}"))
    write_artifacts(project, seed=1)
    publish(project, "run-1", stages=["evaluate"])
    made = registration.register(project, "run-1", uri(project), pushed=True)
    judge(project, made.version, uri(project))
    done = decide(project, "tiny@1", False, "blurred", tracking_uri=uri(project))
    assert (done.outcome, stage(project, "1")) == ("rejected", "Archived")
    (project / "params.yaml").write_text(text)
    again = registration.register(project, "run-1", uri(project), pushed=True)
    said = judge(project, again.version, uri(project))
    assert said.outcome == "refused"
    assert said.reasons[0] == "FAIL: rejected by a human: Ada <ada@example.org>: blurred"


def test_an_override_decides_for_the_flow_run_that_waits(root):
    verdict(root, "2", "waiting")
    assert note_waiting(root, "tiny@2", "some-run", uri(root))
    done = promote(root, "tiny@2", "Production", "at once", True, uri(root))
    assert (done.outcome, done.flow_run) == ("moved", "some-run")
    found = verdict_on(root, "tiny@2", uri(root))
    assert (found.outcome, found.place, found.reasons) == (
        "overridden",
        "champion",
        ["pass: better"],
    )
    assert not note_waiting(root, "tiny@2", "late-run", uri(root)), "decided meanwhile"
    assert "waiting_flow_run" not in connect(uri(root)).get_model_version("tiny", "2").tags


def test_the_verdict_that_another_checkout_gave_since_counts(root):
    path = ".instar/verdicts/tiny-v2.json"
    promotion_verdict.write(
        root, promotion_verdict.Verdict("tiny", "2", "1", "waiting", ["pass: better"], path=path)
    )
    move(Move("tiny", "3", "champion", "Bob", "faster"), root, uri(root))
    verdict(root, "2", "waiting", champion="3")
    assert decide(root, "tiny@2", True, "fine", tracking_uri=uri(root)).replaced == "3"
    assert champion(root) == "2"


def test_an_approval_against_a_champion_that_has_gone_is_refused(root):
    verdict(root, "2", "waiting")
    move(Move("tiny", "3", "champion", "Bob", "faster"), root, uri(root))
    with pytest.raises(TaskError, match="passed against version 1, but the champion is version 3"):
        decide(root, "tiny@2", True, "late", tracking_uri=uri(root))
    assert champion(root) == "3"


def test_what_was_rejected_stays_so_when_mlflow_has_lost_its_tags(root):
    verdict(root, "2", "waiting")
    decide(root, "tiny@2", False, "blurred", tracking_uri=uri(root))
    move(Move("tiny", "3", "champion", "Ada", "better"), root, uri(root))
    rollback(root, "tiny", "wrong on bags", uri(root))
    client = connect(uri(root))
    known = {number: client.get_model_version("tiny", number).tags for number in "123"}
    for number in "23":
        client.delete_model_version_tag("tiny", number, "rejected")
    registration.stand_as_logged("tiny", root, uri(root))
    found = {number: client.get_model_version("tiny", number).tags for number in "123"}
    assert found == known
    promote(root, "tiny@3", "Production", "needed", override=True, tracking_uri=uri(root))
    registration.stand_as_logged("tiny", root, uri(root))
    assert "rejected" not in client.get_model_version("tiny", "3").tags


def test_each_rollback_goes_one_further_back(root):
    for version in ("2", "3"):
        move(Move("tiny", version, "champion", "Ada", "better"), root, uri(root))
    done = rollback(root, "tiny", "wrong on bags", uri(root))
    assert (done.version, done.replaced, champion(root)) == ("2", "3", "2")
    last = promotions(root)[-1]
    assert last["why"] == "rolled back from version 3: wrong on bags"
    assert last["evidence"] == {"rolled_back": "3"}
    tags = connect(uri(root)).get_model_version("tiny", "3").tags
    assert tags["rejected"] == "Ada <ada@example.org> rolled it back: wrong on bags"
    assert rollback(root, "tiny", tracking_uri=uri(root)).version == "1"
    with pytest.raises(TaskError, match="nothing to roll back to"):
        rollback(root, "tiny", tracking_uri=uri(root))
    assert champion(root) == "1"


def moves_of(*steps):
    """Log lines: a version promoted, `back` to one, or `gone` (withdrawn)."""
    for step, version in steps:
        start, to = ("champion", "archived") if step == "gone" else ("challenger", "champion")
        evidence = {"rolled_back": "?"} if step == "back" else {}
        yield {
            "name": "tiny", "version": version, "from": start, "to": to, "why": "",
            "evidence": evidence,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([("up", "1")], []),
        ([("up", "1"), ("up", "2"), ("up", "3")], ["2", "1"]),
        ([("up", "1"), ("up", "2"), ("up", "3"), ("back", "2")], ["1"]),
        ([("up", "1"), ("up", "2"), ("back", "1"), ("up", "3")], ["1"]),
        ([("up", "1"), ("up", "2"), ("up", "1")], ["2", "1"]),
        ([("up", "1"), ("up", "2"), ("gone", "2")], ["1"]),
    ],
)
def test_the_log_is_read_like_a_pile(steps, expected):
    assert former_champions(moves_of(*steps), "tiny") == expected


def test_history_answers_what_stood_where_on_a_day(tmp_path, root):
    days = ["2026-01-01T10:00:00Z", "2026-01-03T10:00:00Z", "2026-01-03T18:00:00Z"]
    moves = [(days[0], "1", "champion"), (days[1], "2", "challenger"), (days[2], "2", "champion")]
    lines = [
        {"time": time, "name": "tiny", "version": version, "from": None, "to": to, "who": "Ada",
         "why": "", "evidence": {}} for time, version, to in moves
    ]  # fmt: skip
    other = tmp_path / "elsewhere"
    other.mkdir()
    (other / ".instar").mkdir()
    (other / PROMOTIONS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    held = {"version": "1", "since": days[0], "until": days[2]}
    assert history(other, "tiny", "2026-01-02")["Production"] == [held]
    third = history(other, "tiny", "2026-01-03")
    assert [one["version"] for one in third["Production"]] == ["1", "2"]
    assert third["Staging"] == [{"version": "2", "since": days[1], "until": days[2]}]
    assert history(other, "tiny", "2026-01-03T12:00:00+01:00")["Production"] == [held]
    assert history(other, "tiny", "2025-12-31")["Production"] == []
    for no_date in ("yesterday", "0001-01-01T00:00:00+10:00"):
        with pytest.raises(TaskError, match="is not a date"):
            history(other, "tiny", no_date)
    with pytest.raises(TaskError, match="no line of 'other'"):
        history(other, "other")


def test_models_tells_stage_aliases_numbers_and_who(root):
    tags = {"accuracy_mean": "0.85", "accuracy_low": "0.84", "accuracy_high": "0.86"}
    set_tags(connect(uri(root)), "tiny", "1", tags)
    found = {one["version"]: one for one in versions(root, "tiny", uri(root))["versions"]}
    assert list(found) == ["3", "2", "1"]
    assert (found["1"]["stage"], found["1"]["aliases"]) == (
        "Production", ["champion", "production"],
    )  # fmt: skip
    assert found["1"]["accuracy"] == {"mean": 0.85, "low": 0.84, "high": 0.86}
    assert (found["1"]["moved_by"], found["3"]["moved_by"]) == ("Ada", None)
    with pytest.raises(TaskError, match="MLflow has no model 'other': it has tiny"):
        versions(root, "other", uri(root))


def test_a_version_that_mlflow_has_lost_can_be_struck_off(root):
    client = connect(uri(root))
    client.delete_registered_model("tiny")
    client.create_registered_model("tiny")
    promote(root, "tiny@1", "Archived", "lost", tracking_uri=uri(root))
    assert transitions.require_known_champion(client, "tiny", root) is None
