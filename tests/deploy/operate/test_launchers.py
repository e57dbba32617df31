"""Each launcher of a config has a module that starts, finds and ends whole clusters, wherever below deploy/ it lies."""

import pytest

from rowloom.deploy.config.launchers import LAUNCHERS
from rowloom.deploy.down import losses
from rowloom.deploy.operate.launchers import ClusterLauncher, launcher_of
from rowloom.proto.errors import InvalidRequest


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_does_all_that_whole_clusters_need(name) -> None:
    module = launcher_of(name)
    asked = [what for what in vars(ClusterLauncher) if not what.startswith("_")]
    assert asked == ["up", "down", "runs", "find", "find_again"]
    assert [what for what in asked if not callable(getattr(module, what, None))] == []


def test_a_launcher_may_have_a_room_of_its_own(monkeypatch) -> None:
    monkeypatch.setitem(LAUNCHERS, "ray", "down.losses")
    assert launcher_of("ray") is losses


def test_no_launcher_is_known_by_another_name() -> None:
    with pytest.raises(InvalidRequest, match="local or ray, got 'k8s'"):
        launcher_of("k8s")
