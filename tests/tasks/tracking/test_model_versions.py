import pytest

from tasks.errors import TaskError
from tasks.registry.registration import register
from tasks.tracking.client import connect
from tasks.tracking.model_versions import find_version
from tests.tasks.conftest import publish, uri


@pytest.fixture
def client(project):
    publish(project, "run-1")
    register(project, "run-1", uri(project), pushed=True)
    return connect(uri(project))


@pytest.mark.parametrize("written", ["tiny@1", "tiny@challenger", "tiny@Staging"])
def test_a_version_is_found_by_number_and_by_alias(client, written):
    assert str(find_version(client, written).version) == "1"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("tiny", "write NAME@3 or NAME@production .known models: tiny"),
        ("tiny@", "names no model version"),
        ("tiny@7", "model tiny has no 7: it has 1, challenger, staging"),
        ("tiny@production", "model tiny has no production: it has 1, challenger, staging"),
        ("large@1", "no model 'large': it has tiny"),
    ],
)
def test_what_there_is_instead_is_told(client, written, said):
    with pytest.raises(TaskError, match=said):
        find_version(client, written)
