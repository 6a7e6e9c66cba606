import pytest

from data.errors import DataError
from tasks.pretrain import pretrain
from tests.tasks.small_stages import make_stage, prepare


@pytest.fixture(autouse=True)
def _prepared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare()


def test_too_few_labels_for_the_probe_are_blamed_on_its_own_setting():
    with pytest.raises(DataError, match=r"^pretrain.probe_fraction 0.01 .* raise pretrain.probe_"):
        pretrain(make_stage("pretrain", probe_fraction=0.01))
