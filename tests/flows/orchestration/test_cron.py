"""Which cron lines are taken, what is said of the others, and when a line fires next."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from flows.orchestration.cron import read_cron, require_planned
from tasks.errors import TaskError
from tests.e2e.tiny_project import instar, make_tiny_project

HERE = Path(__file__).resolve().parents[3]

REFUSED = {
    # Seconds first, and a year last, as Quartz and Spring write it.
    "0 0 3 * * *": 'has 6 fields, not 5.*leave that out: "0 3 . . ."',
    "0 */5 * * * *": 'leave that out: "./5 . . . ."',
    "0 0 3 ? * 2": 'leave that out: "0 3 . . 2".*Quartz counts',
    "0 0 3 * * ? 2030": 'has 7 fields, not 5.*leave that out: "0 3 . . ."',
    "* * * * * *": "has 6 fields",
    "0 3 * *": "has 4 fields",
    "every night": "has 2 fields",
    "3": "has 1 field,",
    "TZ=Europe/Berlin 0 3 * * *": "--timezone",
    "": "is empty",
    " \t ": "is empty",
    "@daily": 'write "0 0 . . ."',
    "@HOURLY": 'write "0 . . . ."',
    "@reboot": "no time of a calendar",
    "0 0 31 2 *": "never fire: there is no day 31 in Feb",
    "0 0 30 feb *": "never fire: there is no day 30 in Feb",
    "0 0 30,31 2 *": "never fire: there is no day 30 in Feb",
    "0 0 31 4,6,9,11 *": "never fire: there is no day 31 in Apr, Jun, Sep, Nov",
    # Prefect finds no date for this one either, although cron would take the Mondays.
    "0 0 31 2 1": "never fire",
    "60 * * * *": "the minute '60'.*0 to 59",
    "0 24 * * *": "the hour '24'.*0 to 23",
    "0 0 0 * *": "day of the month '0'.*1 to 31",
    "0 0 * 13 *": "the month '13'.*1 to 12 or jan to dec",
    "0 0 * * 8": "the weekday '8'.*0 to 7 or sun to sat",
    "0 0 * * monday": "the weekday 'monday'",
    "*/90 * * * *": "a step of 90; here a step is 1 to 59",
    "* */24 * * *": "a step of 24; here a step is 1 to 23",
    "*/0 * * * *": "a step of 0",
    "50/15 * * * *": "a step of 15; here a step is 1 to 9",
    "0 0 ? * 1": r"'\?' is not valid.*write \*",
    "0 0 L * *": "'L' is not valid",
    "0 0 15W * *": "'15W' is not valid",
    "0 0 * * 5#2": "'5#2' is not valid",
    "H H * * *": "'H' is not valid",
    "R(0-29) 3 * * *": "is not valid",
    "1,2,,3 * * * *": "'' is not valid",
    "-5 * * * *": "'-5' is not valid",
    "\u0663 * * * *": "is not valid",
}


@pytest.mark.parametrize("line", REFUSED)
def test_line_that_fires_otherwise_than_meant_is_refused_with_what_to_write(line):
    with pytest.raises(TaskError, match=REFUSED[line]):
        read_cron(line)


@pytest.mark.parametrize(
    ("line", "read"),
    [
        ("  0   3\t* * *\n", "0 3 * * *"),
        ("*/15 * * * *", "*/15 * * * *"),
        ("0 22-2 * * fri-mon", "0 22-2 * * fri-mon"),
        ("5,35 8-18/2 1-7 JAN,jul 0-7", "5,35 8-18/2 1-7 JAN,jul 0-7"),
        ("0 0 29 2 *", "0 0 29 2 *"),
        ("0 0 31 2,3 *", "0 0 31 2,3 *"),
        ("00 03 * * 7", "00 03 * * 7"),
    ],
)
def test_line_of_five_fields_is_taken_with_single_spaces(line, read):
    assert read_cron(line).line == read


@pytest.mark.parametrize(
    ("timezone", "said"),
    [
        ("Moon/Base", "is not a time zone"),
        ("europe/berlin", "Did you mean Europe/Berlin"),
        ("CEST", "is not a time zone"),
        ("+01:00", "is not a time zone"),
        ("", "is not a time zone"),
        # zoneinfo knows them; Prefect's scheduler ends at them.
        ("localtime", "is not a time zone"),
        ("posixrules", "is not a time zone"),
    ],
)
def test_zone_that_prefect_cannot_use_is_refused(timezone, said):
    with pytest.raises(TaskError, match=said):
        read_cron("0 3 * * *", timezone)


@pytest.mark.parametrize(
    "schedules",
    [
        {"schedules": [{"cron": "0 0 3 * * *", "timezone": "UTC"}]},
        {"schedules": [{"cron": "0 3 * * *"}, {"cron": "0 0 31 2 *"}]},
        {"schedule": {"cron": "@daily"}},
        {"schedules": [{"cron": "0 3 * * *", "timezone": "Moon/Base"}]},
    ],
)
def test_line_of_prefect_yaml_that_would_not_fire_as_meant_is_refused(schedules, tmp_path):
    shutil.copy(HERE / "prefect.yaml", tmp_path)
    require_planned(tmp_path)
    yaml = YAML()
    planned = yaml.load(tmp_path / "prefect.yaml")
    planned["deployments"].append({"name": "mine", **schedules})
    yaml.dump(planned, tmp_path / "prefect.yaml")
    with pytest.raises(TaskError, match="prefect.yaml, deployment mine: "):
        require_planned(tmp_path)


@pytest.mark.slow
class TestTimes:
    """Prefect's own scheduler works them out."""

    @pytest.mark.parametrize(
        ("line", "fits"),
        [
            ("0 3 * * *", lambda time: (time.hour, time.minute) == (3, 0)),
            ("30 22-2 * * *", lambda time: time.hour in (22, 23, 0, 1, 2) and time.minute == 30),
            ("0 0 * * fri-mon", lambda time: time.weekday() in (4, 5, 6, 0)),
            ("0 0 * * 7", lambda time: time.weekday() == 6),
            ("5/20 * * * *", lambda time: time.minute in (5, 25, 45)),
            ("0 0 29 2 *", lambda time: (time.month, time.day) == (2, 29)),
            ("0 0 13 * 5", lambda time: time.day == 13 or time.weekday() == 4),
            ("0 0 31 2,3 *", lambda time: (time.month, time.day) == (3, 31)),
        ],
    )
    def test_line_fires_when_it_says_on_the_clock_of_its_zone(self, line, fits):
        for zone in ("UTC", "America/New_York"):
            times = read_cron(line, zone).next_times()
            assert len(times) == 3
            assert times == sorted(set(times))
            assert all(fits(time) and time.second == 0 for time in times), times

    def test_what_a_reader_may_not_expect_is_told(self, monkeypatch):
        def told(line, zone="UTC"):
            when = read_cron(line, zone)
            return when.told(when.next_times())

        assert told("0 3 * * *").endswith("(UTC)")
        assert "either, not as both" in told("0 0 13 * 5")
        assert "years lie between" in told("0 0 29 2 *")
        assert "on this machine's clock" in told("0 3 * * *", "Asia/Tokyo")

    def test_schedule_and_watch_refuse_before_a_server_starts_and_print_what_follows(
        self, tmp_path
    ):
        project = make_tiny_project(tmp_path / "project")
        for command in ("schedule", "watch"):
            ended = instar(project, command, "--cron", "0 0 3 * * *")
            assert ended.returncode == 1
            assert "has 6 fields, not 5" in ended.stderr and ended.stderr.count("\n") == 1
        assert not (project / ".instar" / "prefect").exists()
        for command in ("schedule", "watch"):
            ended = instar(project, command, "--cron", " 0  3 * * *", "--json")
            assert ended.returncode == 0, ended.stderr
            answer = json.loads(ended.stdout)
            assert answer["cron"] == "0 3 * * *" and answer["timezone"] == "UTC"
            assert [time[10:] for time in answer["next"]] == ["T03:00:00+00:00"] * 3
