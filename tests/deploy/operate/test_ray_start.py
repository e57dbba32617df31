"""How long `up` waits for a coordinator on Ray, and what it says when that was too long. Ray and clock are played."""

import pytest

from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.operate import ray_clusters
from rowloom.deploy.operate.launchers import Restore
from rowloom.proto.errors import Unavailable

ROOM_S = 10.0  # limits.start_timeout_s: the coordinator waits for room so long, and gives up by itself


class PlayedRay:
    """An actor whose process takes a while to come up, and which then waits for room."""

    def __init__(self, process_s: float) -> None:
        self.process_s = process_s
        self.now = 0.0
        self.info = self

    def remote(self) -> str:
        return "answer"

    def wait(self, answers: list[str], timeout: float) -> tuple[list[str], list[str]]:
        self.now += timeout
        return (answers, []) if self.now >= self.process_s + ROOM_S else ([], answers)

    def get(self, answer: str) -> None:
        raise Unavailable("there is no room for 9 shards")

    def waits(self, config: DeployConfig) -> str:
        return "waiting for room on Ray" if self.now >= self.process_s else ""


def started(monkeypatch: pytest.MonkeyPatch, process_s: float, restore: Restore | None = None) -> str:
    """What `up` said in the end."""
    played = PlayedRay(process_s)
    monkeypatch.setattr(ray_clusters, "ray_module", lambda: played)
    monkeypatch.setattr(ray_clusters.time, "monotonic", lambda: played.now)
    monkeypatch.setattr(ray_clusters, "resources_of_nodes", lambda: [])
    monkeypatch.setattr(ray_clusters, "waits_for_node", lambda config, nodes: "")
    monkeypatch.setattr(ray_clusters, "waits_for_room", played.waits)
    config = parse(
        {"name": "ads", "shards": 9, "launcher": "ray", "limits": {"start_timeout_s": ROOM_S}, "tables": []}
    )
    with pytest.raises(Unavailable) as caught:
        ray_clusters._awaited(played, config, lambda text: None, restore)
    return str(caught.value)


@pytest.mark.parametrize("process_s", [0.0, 15.0])
def test_a_process_that_came_up_late_takes_nothing_from_the_wait_for_room(monkeypatch, process_s):
    assert started(monkeypatch, process_s) == "there is no room for 9 shards"


def test_a_coordinator_that_never_came_up_is_told_of_with_the_time_it_had(monkeypatch):
    assert started(monkeypatch, 1000.0) == (
        "cluster 'ads' did not start within 20 s (limits.start_timeout_s is 10): "
        "its coordinator does not answer yet"
    )


def test_a_restore_that_ran_out_of_time_named_a_setting_that_does_not_bound_it(monkeypatch):
    monkeypatch.setattr(ray_clusters, "RESTORE_S", 60.0)
    said = started(monkeypatch, 1000.0, Restore("/x"))
    assert said == (
        "cluster 'ads' did not start within 60 s, which is the most that a restore may take, whatever the config "
        "says: its coordinator does not answer yet"
    )
