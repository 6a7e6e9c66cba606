"""What a cron line says: five fields, checked before anything is scheduled.

Prefect's own parser takes more than its readers expect: with a sixth field, as Quartz writes it, a
run starts every second, and a day that no month has is found out only by the scheduler.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import available_timezones

from tasks.errors import TaskError
from tasks.settings.project_files import read_yaml

_MONTHS = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"]
_WEEKDAYS = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"]
# The longest that each month gets.
_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@annually": "0 0 1 1 *",
    "@yearly": "0 0 1 1 *",
}
_ITEM = re.compile(r"(?:\*|(?P<start>\w+)(?:-(?P<end>\w+))?)(?:/(?P<step>[0-9]+))?", re.ASCII)
# Zones that zoneinfo knows and Prefect's scheduler does not.
_NO_ZONES = {"localtime", "Factory"}


@dataclass(frozen=True)
class Field:
    """One of the five fields.

    Attributes:
        name: In words.
        first: Its lowest number.
        last: Its highest.
        names: What may stand for `first` and the numbers after it.
        size: How many different values it has: Sunday is both 0 and 7.
    """

    name: str
    first: int
    last: int
    size: int
    names: Sequence[str] = ()

    @property
    def wants(self) -> str:
        """What it takes, in words."""
        words = f" or {self.names[0]} to {self.names[-1]}" if self.names else ""
        return f"{self.first} to {self.last}{words}"

    def number(self, text: str) -> int | None:
        """What a number or a name stands for; None if the field has no such value."""
        if text.lower() in self.names:
            return self.first + self.names.index(text.lower())
        number = int(text) if text.isdecimal() else -1
        return number if self.first <= number <= self.last else None


FIELDS = (
    Field("minute", 0, 59, 60),
    Field("hour", 0, 23, 24),
    Field("day of the month", 1, 31, 31),
    Field("month", 1, 12, 12, _MONTHS),
    Field("weekday", 0, 7, 7, _WEEKDAYS),
)
_WANTED = 'minute hour day month weekday, as in "0 3 * * *" for every night at three'


@dataclass(frozen=True)
class CronLine:
    """A line that fires, and the zone whose clock it reads; see `read_cron`."""

    line: str
    timezone: str

    def next_times(self, count: int = 3) -> list[datetime]:
        """When it fires next, as Prefect's own scheduler works it out.

        Raises:
            TaskError: Prefect finds no date.
        """
        import asyncio

        from prefect.server.schemas.schedules import CronSchedule

        try:
            schedule = CronSchedule(cron=self.line, timezone=self.timezone)
            return [*asyncio.run(schedule.get_dates(count))]
        except ValueError as error:
            raise TaskError(f"the cron line {self.line!r} would never fire: {error}.") from None

    def as_dict(self, times: Sequence[datetime]) -> dict[str, Any]:
        """Itself and its next times, as plain JSON."""
        following = [time.isoformat() for time in times]
        return {"cron": self.line, "timezone": self.timezone, "next": following}

    def told(self, times: Sequence[datetime]) -> str:
        """Its next times in words, and what a reader may not expect of the line."""
        said = [f"Fires next: {', '.join(map(_moment, times))} ({self.timezone})"]
        here = times[0].astimezone()
        if here.utcoffset() != times[0].utcoffset():
            said.append(f"note: on this machine's clock ({here:%Z}) the first is {_moment(here)}")
        if times[1] - times[0] > timedelta(days=366):
            said.append("note: years lie between these times")
        _, _, day, _, weekday = self.line.split()
        if "*" not in (day, weekday):
            said.append(f"note: cron takes day {day} and weekday {weekday} as either, not as both")
        return "\n".join(said)


def read_cron(line: str, timezone: str = "UTC") -> CronLine:
    """A cron line with single spaces, if it is one that fires.

    Raises:
        TaskError: It has not five fields, a field is not valid, or no date ever fits; or Prefect
            does not know the time zone.
    """
    parts = line.split()
    if len(parts) != len(FIELDS):
        raise TaskError(_not_five(line, parts))
    values = [_values(kind, text, line) for kind, text in zip(FIELDS, parts, strict=True)]
    days, months = values[2], values[3]
    if not any(day <= _DAYS[month - 1] for day in days for month in months):
        named = ", ".join(_MONTHS[month - 1].capitalize() for month in sorted(months))
        raise TaskError(
            f"the cron line {line!r} would never fire: there is no day {min(days)} in {named}."
        )
    _require_zone(timezone)
    return CronLine(" ".join(parts), timezone)


def require_planned(root: Path) -> None:
    """Refuse a cron line of prefect.yaml that `read_cron` refuses: `prefect deploy` takes it.

    Raises:
        TaskError: Names the deployment and what is wrong with its schedule.
    """
    path = root / "prefect.yaml"
    deployments = (read_yaml(path).get("deployments") or []) if path.is_file() else []
    for deployment in deployments:
        for schedule in _schedules(deployment):
            try:
                read_cron(str(schedule["cron"]), str(schedule.get("timezone") or "UTC"))
            except TaskError as problem:
                name = deployment.get("name")
                raise TaskError(f"prefect.yaml, deployment {name}: {problem}") from None


def _schedules(deployment: Any) -> Iterator[dict[str, Any]]:
    """The schedules with a cron line, in both spellings of prefect.yaml."""
    if not isinstance(deployment, dict):
        return
    for schedule in [deployment.get("schedule"), *(deployment.get("schedules") or [])]:
        if isinstance(schedule, dict) and schedule.get("cron") is not None:
            yield schedule


def _require_zone(timezone: str) -> None:
    known = available_timezones() - _NO_ZONES
    if timezone in known:
        return
    lower = {name.lower(): name for name in known}
    alike = difflib.get_close_matches(timezone.strip().lower(), lower, 1)
    meant = f" Did you mean {lower[alike[0]]}?" if alike else ""
    raise TaskError(
        f"{timezone!r} is not a time zone: name one as in Europe/Berlin, or UTC.{meant}"
    )


def _moment(time: datetime) -> str:
    return f"{time:%a} {time.isoformat(sep=' ', timespec='minutes')}"


def _not_five(line: str, parts: list[str]) -> str:
    """Why this is not a line of five fields, and what to write instead."""
    if not parts:
        return f"the cron line is empty: it takes {_WANTED}."
    if parts[0].startswith("@"):
        instead = _ALIASES.get(line.strip().lower())
        remedy = f'write "{instead}"' if instead else "it names no time of a calendar"
        return f"the cron line {line!r} is not one of five fields: {remedy}."
    count = f"{len(parts)} field{'s' if len(parts) > 1 else ''}"
    said = f"the cron line {line!r} has {count}, not 5: {_WANTED}."
    if len(parts) not in (6, 7):
        return said
    if "=" in parts[0]:
        return f"{said} The zone is given by --timezone."
    # Quartz and Spring begin with seconds, and may end with a year.
    five = " ".join(parts[1:6]).replace("?", "*")
    try:
        read_cron(five)
    except TaskError:
        return said
    said += f' If its first field counts seconds, as in Quartz, leave that out: "{five}".'
    if any(sign.isdigit() for sign in parts[5]):
        said += " Write weekdays as names (mon, tue, …): Quartz counts them from 1 for Sunday."
    return said


def _values(kind: Field, text: str, line: str) -> set[int]:
    """The numbers that a field names.

    Raises:
        TaskError: It names others than there are, or is written in another way.
    """
    return {value for item in text.split(",") for value in _item(kind, item, line)}


def _item(kind: Field, item: str, line: str) -> Iterator[int]:
    match = _ITEM.fullmatch(item)
    start, end, step = (match["start"], match["end"], match["step"]) if match else (None,) * 3
    low = kind.number(start) if start else kind.first
    high = kind.number(end) if end else kind.first + kind.size - 1
    if match is None or low is None or high is None:
        hint = "; for Quartz's ? write *" if item == "?" else ""
        raise TaskError(
            f"the cron line {line!r}: the {kind.name} {item!r} is not valid. It is {kind.wants}, "
            f"or *, with - for a range, a comma for a list and / for a step{hint}."
        )
    if start and not end and not step:
        high = low
    # From 22 to 2 is the night, as Prefect reads it too.
    span = high - low if high >= low else high - low + kind.size
    if step and not 1 <= int(step) <= max(span, 1):
        raise TaskError(
            f"the cron line {line!r}: the {kind.name} {item!r} has a step of {int(step)}; here a "
            f"step is 1 to {max(span, 1)}, and {low} alone needs none."
        )
    for far in range(0, span + 1, int(step or 1)):
        yield kind.first + (low - kind.first + far) % kind.size
