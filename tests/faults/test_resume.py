"""SIGKILL in the middle of a training: the next run goes on, and its bytes are the same.

Each run is a real `python -m tasks.<stage>` in a tiny project. A pretraining is killed by itself at
an exact step, a fine-tuning from outside at some moment after some of its fits.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.execution.workspace import isolated
from tasks.settings.editing import change_settings
from tasks.stages.abstention import FOLDS
from tasks.stages.context import stage
from tasks.stages.finetune import finetune
from tasks.stages.pretrain import pretrain
from tests.e2e.tiny_project import environment, make_tiny_project
from tests.tasks.toy_project import make_toy_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

EPOCHS, STEPS = 4, 9
DRAWS = 3
# Both arms, and the refits that tell when to abstain.
FITS = 2 * DRAWS + FOLDS
ENGINES = ("batched", "albumentations")
SETTINGS = (
    f"pretrain.epochs={EPOCHS}",
    f"finetune.draws={DRAWS}",
    "finetune.learner.steps=60",
)

# The stage as its command runs it, but for a SIGKILL to itself after a step, or when it is about to
# give a checkpoint its name.
KILLED_STAGE = """
import itertools, os, runpy, signal, sys
from torch.optim.optimizer import register_optimizer_step_post_hook

what, number = sys.argv[1], int(sys.argv[2])
times = itertools.count(1)

def count(*_):
    if next(times) == number:
        os.kill(os.getpid(), signal.SIGKILL)

if what == "step":
    register_optimizer_step_post_hook(count)
else:
    rename = os.replace
    os.replace = lambda old, new: (str(new).endswith(".ckpt") and count()) or rename(old, new)
runpy.run_module("tasks.stages.pretrain", run_name="__main__")
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The tiny project, its images packed."""
    root = make_tiny_project(tmp_path_factory.mktemp("resume") / "prepared")
    change_settings(root, SETTINGS)
    run(root, "-m", "tasks.stages.prepare")
    return root


@pytest.fixture(scope="module")
def uninterrupted(prepared, tmp_path_factory):
    """What a stage puts out when nobody kills it, computed once for each setting."""
    known = {}

    def outputs(name, *settings):
        if (name, settings) not in known:
            root = tmp_path_factory.mktemp("whole") / "project"
            source = prepared if name == "pretrain" else outputs("pretrain")[0]
            copy(source, root, *settings)
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(root)
                with stage(name) as running:
                    {"pretrain": pretrain, "finetune": finetune}[name](running)
            known[name, settings] = root, read(root, name)
        return known[name, settings]

    return outputs


def copy(source, root, *settings):
    shutil.copytree(source, root)
    if settings:
        change_settings(root, settings)
    return root


def read(root, name):
    folder = root / "artifacts" / name
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def run(root, *arguments):
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=root,
        env=environment(root),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done


def kill_pretraining(root, what, number):
    """Let a pretraining kill itself; how many epochs it has left behind."""
    command = [sys.executable, "-c", KILLED_STAGE, what, str(number)]
    done = subprocess.run(command, cwd=root, env=environment(root), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert journal(root, "pretrain")[-1]["event"] != "end"
    assert not (root / "artifacts/pretrain/encoder.safetensors").exists()
    saved = root.glob(".instar/checkpoints/pretrain-*/epoch-*.ckpt")
    return max((int(path.name[6:12]) for path in saved), default=0)


def kill_finetuning(root, after, delay):
    """Kill a fine-tuning some time after some of its fits are done; how many it has kept."""
    command = [sys.executable, "-m", "tasks.stages.finetune"]
    process = subprocess.Popen(
        command,
        cwd=root,
        env=environment(root),
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    while len(fits_kept(root)) < after:
        assert process.poll() is None, "it ended before it was killed"
        time.sleep(0.005)
    time.sleep(delay)
    children = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    assert process.wait() == -signal.SIGKILL, "it ended before it was killed"
    gone, alive = psutil.wait_procs(children, timeout=60)
    assert gone and not alive, "workers outlive their stage"
    assert not (root / "artifacts/finetune/metrics.json").exists()
    return len(fits_kept(root))


def fits_kept(root):
    return list(root.glob(".instar/checkpoints/finetune-*/*.zip"))


def journal(root, name):
    """The events of the last run of the stage."""
    events = []
    for path in root.glob(f".instar/journal/{name}-*.jsonl"):
        for line in path.read_text().splitlines():
            event = json.loads(line)
            events = [event] if event["event"] == "start" else [*events, event]
    return events


def notes(root, name):
    return [event["message"] for event in journal(root, name) if event["event"] == "note"]


def assert_pretraining_survives(root, whole, kills):
    done = 0
    for what, number in kills:
        kept = kill_pretraining(root, what, number)
        assert kept >= done
        done = kept
    run(root, "-m", "tasks.stages.pretrain")
    assert read(root, "pretrain") == whole
    resumed = [f"resuming after epoch {done} of {EPOCHS}"] if done else []
    assert notes(root, "pretrain") == resumed
    assert not any(root.glob(".instar/checkpoints/*")), "a success leaves no checkpoint"


def assert_finetuning_survives(root, whole, after, delay):
    kept = kill_finetuning(root, after, delay)
    assert after <= kept <= FITS
    run(root, "-m", "tasks.stages.finetune")
    assert read(root, "finetune") == whole
    assert notes(root, "finetune") == [f"resuming with {kept} of {FITS} fits done"]


def test_pretraining_killed_at_a_step_ends_in_the_same_bytes(prepared, uninterrupted, tmp_path):
    engine = "pretrain.augmentation.engine=albumentations"
    _, whole = uninterrupted("pretrain", engine)
    root = copy(prepared, tmp_path / "project", engine, "pretrain.workers=2")
    assert_pretraining_survives(root, whole, [("step", 2 * STEPS + 5)])


def test_finetuning_killed_among_its_fits_ends_in_the_same_bytes(uninterrupted, tmp_path):
    _, whole = uninterrupted("finetune")
    pretrained, _ = uninterrupted("pretrain")
    root = copy(pretrained, tmp_path / "project", "finetune.workers=2")
    assert_finetuning_survives(root, whole, after=2, delay=0.0)


def test_changed_setting_meets_no_checkpoint_of_the_old_one(
    prepared, uninterrupted, tmp_path, monkeypatch
):
    changed = "pretrain.optimizer.lr=0.001"
    _, whole = uninterrupted("pretrain", changed)
    root = copy(prepared, tmp_path / "project")
    monkeypatch.chdir(root)
    with contextlib.suppress(InterruptedError), stage("pretrain") as running:
        monkeypatch.setattr(running, "write_json", _interrupt)
        pretrain(running)
    old = sorted(root.glob(".instar/checkpoints/pretrain-*/epoch-*.ckpt"))
    assert len(old) == 2
    change_settings(root, [changed])
    with stage("pretrain") as running:
        pretrain(running)
        assert running.scratch != old[0].parent
    assert read(root, "pretrain") == whole
    assert not notes(root, "pretrain")
    assert all(path.exists() for path in old), "undoing the change may still go on from them"


def _interrupt(*_):
    raise InterruptedError


def test_killed_isolated_run_leaves_its_checkpoints_to_the_next_one(tmp_path):
    project = make_toy_project(tmp_path / "project")
    killed = """
import os, signal
from pathlib import Path
from tasks.system.atomic_files import keep
from tasks.system.scratch import claimed
from tasks.execution.workspace import isolated
with isolated(".", "killed") as place:
    os.chdir(place)
    with claimed(Path(".instar/checkpoints/pretrain-abc")) as scratch:
        keep(scratch / "epoch-000001.ckpt", b"state")
        os.kill(os.getpid(), signal.SIGKILL)
"""
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    subprocess.run([sys.executable, "-c", killed], cwd=project, env=here, check=False)
    with isolated(project, "next") as place:
        assert not (project / ".instar" / "work" / "killed").exists()
        found = place.glob(".instar/checkpoints/pretrain-abc/epoch-000001.*.ckpt")
        assert [path.read_bytes() for path in found] == [b"state"]


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_pretraining_killed_twice_at_random(
    prepared, uninterrupted, tmp_path, engine, workers, seed
):
    setting = f"pretrain.augmentation.engine={engine}"
    _, whole = uninterrupted("pretrain", setting)
    root = copy(prepared, tmp_path / "project", setting, f"pretrain.workers={workers}")
    chance = random.Random(f"{engine} {workers} {seed}")
    first = chance.randrange(1, (EPOCHS - 1) * STEPS)
    # The second run counts from the epoch where it takes up.
    left = EPOCHS * STEPS - (first - 1) // STEPS * STEPS
    second = ("step", chance.randrange(1, left)) if seed % 2 else ("rename", 1)
    assert_pretraining_survives(root, whole, [("step", first), second])


@pytest.mark.faults
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_finetuning_killed_at_random(uninterrupted, tmp_path, engine, workers, seed):
    setting = f"finetune.augmentation.engine={engine}"
    _, whole = uninterrupted("finetune", setting)
    pretrained, _ = uninterrupted("pretrain")
    root = copy(pretrained, tmp_path / "project", setting, f"finetune.workers={workers}")
    chance = random.Random(f"{engine} {workers} {seed}")
    after = chance.randrange(1, 2 * DRAWS - workers)
    assert_finetuning_survives(root, whole, after, chance.uniform(0, 0.2))
