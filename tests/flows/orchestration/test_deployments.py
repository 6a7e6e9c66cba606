"""What a worker does about runs that fell due while none was there."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

from flows.orchestration.deployments import _drop_missed_runs, _unfit_schedules


class Client:
    """Prefect's, with these runs due."""

    def __init__(self, runs):
        self.runs = runs
        self.ended = {}

    def read_flow_runs(self, **_):
        return self.runs

    def set_flow_run_state(self, run, state, force):
        self.ended[run] = state.type.value


def due(name, deployment, days, auto_scheduled=True):
    when = datetime.now(UTC) - timedelta(days=days)
    return SimpleNamespace(
        id=name, deployment_id=deployment, expected_start_time=when, auto_scheduled=auto_scheduled
    )


def test_of_the_missed_runs_of_a_schedule_the_newest_goes_on_and_typed_ones_all():
    client = Client(
        [
            due("first night", "nightly", 3),
            due("last night", "nightly", 1),
            due("second night", "nightly", 2),
            due("typed", "nightly", 4, auto_scheduled=False),
            due("a look", "data", 5),
        ]
    )
    _drop_missed_runs(client, "instar")
    assert client.ended == {"first night": "CANCELLED", "second night": "CANCELLED"}


def test_a_line_that_came_by_another_way_and_fires_otherwise_than_meant_is_named():
    def deployment(name, cron, active=True):
        planned = SimpleNamespace(schedule=SimpleNamespace(cron=cron), active=active)
        return SimpleNamespace(name=name, schedules=[planned])

    class Known:
        def read_deployments(self, **_):
            made = [("good", "0 3 * * *"), ("quartz", "0 0 3 * * *"), ("never", "0 0 31 2 *")]
            off = deployment("paused", "0 0 3 * * *", active=False)
            return [*(deployment(*one) for one in made), off]

    quartz, never = _unfit_schedules(Known(), "instar")
    assert quartz.startswith("deployment quartz: ") and "6 fields" in quartz
    assert never.startswith("deployment never: ") and "never fire" in never
