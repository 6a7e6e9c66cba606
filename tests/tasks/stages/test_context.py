"""The frame of a stage: what it keeps, and what it refuses to keep."""

import pytest

from tasks.stages.context import stage


@pytest.mark.parametrize(
    ("file", "named"),
    [("models/layers/heads.py", "models"), ("params.yaml", "pretrain in params.yaml")],
)
def test_outputs_of_edited_inputs_are_refused_and_the_checkpoint_is_kept(
    project, monkeypatch, capsys, file, named
):
    monkeypatch.chdir(project)
    frame = stage("pretrain")
    scratch = frame.__enter__().scratch
    (scratch / "epoch-0001.ckpt").touch()
    text = (project / file).read_text()
    (project / file).write_text(text.replace("epochs: 2", "epochs: 3") + "# edited\n")
    with pytest.raises(SystemExit, match="1"):
        frame.__exit__(None, None, None)
    said = capsys.readouterr().err
    assert f"error: {named} changed while stage pretrain ran" in said
    assert "run again" in said
    assert scratch.exists()


def test_stage_that_was_left_alone_clears_its_checkpoint(project, monkeypatch):
    monkeypatch.chdir(project)
    with stage("pretrain") as run:
        (run.scratch / "epoch-0001.ckpt").touch()
        (project / "notes.txt").write_text("not an input")
    assert not run.scratch.exists()


def test_table_has_every_rows_columns_and_no_noise_of_the_last_bits(project, monkeypatch):
    monkeypatch.chdir(project)
    with stage("pretrain") as run:
        run.write_csv(
            "a.csv",
            [{"epoch": 1, "loss": 0.1234567}, {"epoch": 2, "loss": float("nan"), "knn": 1e-6}],
        )
        assert (run.out / "a.csv").read_text() == "epoch,loss,knn\n1,0.123457,\n2,,1e-06\n"
