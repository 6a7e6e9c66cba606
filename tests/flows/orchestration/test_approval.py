"""What a flow run that waited says when nobody told it of the decision."""

import logging

import pytest

from flows.orchestration.approval import await_decision
from tasks.promotion import approval
from tasks.promotion import verdict as promotion_verdict


@pytest.mark.parametrize("outcome", ["promoted", "refused", "waiting"])
def test_a_run_that_nobody_resumed_tells_the_decision_that_was_made_meanwhile(
    outcome, tmp_path, monkeypatch
):
    import prefect
    from prefect.exceptions import FlowPauseTimeout

    def nobody_resumes(*_, **__):
        raise FlowPauseTimeout

    monkeypatch.setattr(prefect, "pause_flow_run", nobody_resumes)
    monkeypatch.setattr(prefect, "get_run_logger", logging.getLogger)
    monkeypatch.setattr(approval, "note_waiting", lambda *_: True)
    verdict = promotion_verdict.Verdict("tiny", "2", "1", outcome, ["pass: better"])
    monkeypatch.setattr(approval, "verdict_on", lambda *_: verdict)
    shown = []
    monkeypatch.setattr("flows.orchestration.approval.show_verdict", shown.append)
    (tmp_path / ".instar" / "locks").mkdir(parents=True)
    result = {
        "registered": {"name": "tiny", "version": "2"},
        "gate": {"outcome": "waiting", "reasons": []},
    }
    await_decision(tmp_path, result)
    assert result["gate"]["outcome"] == outcome
    assert [gate["outcome"] for gate in shown] == ([] if outcome == "waiting" else [outcome])
