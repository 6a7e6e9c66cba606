"""`instar lineage`: what made a version, on the terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console

from flows.commands.tables import show_pairs

_UNKNOWN = "not recorded"


def show(found: dict[str, Any], console: Console) -> None:
    """Print the lineage of a version (`tasks.registry.lineage.ancestry`)."""
    show_pairs(console, f"{found['name']} version {found['version']}", _rows(found))


def _rows(found: dict[str, Any]) -> list[tuple[str, str]]:
    code, data, labels, verdict = (found[part] for part in ("code", "data", "labels", "verdict"))
    return [
        *([("page", found["url"])] if found["url"] else []),
        ("git commit", _or_unknown(code["commit"])),
        ("git tag", code["tag"] or "none here (`git fetch --tags`)"),
        ("dvc.lock", _or_unknown(code["dvc_lock"])),
        ("requirements.lock", _or_unknown(code["requirements_lock"])),
        ("settings", _or_unknown(found["settings"]["hash"])),
        ("", _changed(found["settings"])),
        ("data", _or_unknown(data["version"])),
        ("", f"{data['source'] or _UNKNOWN}, {data['path'] or _UNKNOWN}"),
        ("", ", ".join(f"{count:,} {name}" for name, count in data["counts"].items()) or _UNKNOWN),
        ("label draw", _or_unknown(labels["draw"])),
        ("", _labels(labels)),
        *((_run_name(stage, found), _run(run)) for stage, run in found["runs"].items()),
        ("machine", f"{found['machine']['device']}, torch {found['machine']['torch']}"),
        ("weights", _or_unknown(found["weights"])),
        ("test set", _or_unknown(found["test_digest"])),
        ("accuracy, in %", _interval(found["accuracy"])),
        ("gain, in points", _interval(found["gain"], "+.2f")),
        ("gate", _verdict(verdict)),
        ("reproduced", _reproduced(found["reproduced"])),
    ]


def _or_unknown(value: str | None) -> str:
    return value or _UNKNOWN


def _changed(settings: dict[str, Any]) -> str:
    if settings["before"] is None:
        return "the first version"
    if not settings["changed"]:
        return f"the same as version {settings['before']}'s"
    lines = [f"{name}: {old} → {new}" for name, (old, new) in settings["changed"].items()]
    return "\n".join([f"since version {settings['before']}:", *lines])


def _labels(labels: dict[str, str | None]) -> str:
    share = labels["fraction"]
    of = f"{100 * float(share):.3g}% of the labels" if share else _UNKNOWN
    return f"{labels['labels']} labels ({of}), {labels['draws']} draws, seed {labels['seed']}"


def _run_name(stage: str, found: dict[str, Any]) -> str:
    return {
        "flow": "flow run",
        "pretrain": f"pretraining ({found['method']})",
        "finetune": "fine-tuning",
        "evaluate": "evaluation",
    }.get(stage, stage)


def _run(run: dict[str, Any] | None) -> str:
    if run is None:
        return "MLflow has no such run (`instar sync --all` rebuilds it)"
    where = run["url"] or f"MLflow run {run['id']}"
    return f"{where} ({run['name']})" if not run["from_cache"] else f"{where} (from the cache)"


def _interval(value: dict[str, float | None], form: str = ".2f") -> str:
    mean, *ends = (
        None if number is None else format(100 * number, form)
        for number in (value["mean"], value["low"], value["high"])
    )
    return f"{mean or _UNKNOWN} [{ends[0]}, {ends[1]}]" if all(ends) else mean or _UNKNOWN


def _verdict(verdict: dict[str, str | None]) -> str:
    if not verdict["gate"]:
        return "not judged yet"
    reasons = (verdict["reasons"] or "").split("; ")
    return "\n".join([verdict["gate"], *(f"· {reason}" for reason in reasons if reason)])


def _reproduced(told: dict[str, str | None]) -> str:
    if not told["verdict"]:
        return "not tried (`instar reproduce`)"
    return f"{told['verdict']} ({told['scope']}), {told['at']}, on {told['on']}"
