"""Two raylets; one dies under its shard."""

import numpy as np
import pytest
from waiting import least_seconds, until

from rowloom.client import SGD, StateLost, TableSpec, Unavailable, Zeros, connect
from rowloom.deploy.config.config import parse

pytestmark = pytest.mark.ray
IDS = np.arange(100)


@pytest.mark.filterwarnings("ignore")  # Ray's test cluster leaves sockets to the garbage collector
def test_a_raylet_killed_under_a_shard_is_an_error_within_the_deadline_never_initial_rows(
    two_raylets, tmp_path
) -> None:
    from rowloom.deploy.operate.ray_clusters import down_ray, up_ray

    address, kill_second = two_raylets
    config = parse(
        {
            "name": "spread",
            "shards": 2,
            "launcher": "ray",
            "ray": {"address": address, "placement": "STRICT_SPREAD"},
            "storage": f"file://{tmp_path}/state",
            "security": {"insecure": True},  # the nodes have addresses of a network of their own
        }
    )
    with connect(up_ray(config)) as client:
        spec = TableSpec("t", 100, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())
        table = client.create_table(spec)
        table.push(IDS, np.ones((100, 4)))
        kill_second()
        client.timeout_s = 4.0

        def served(ids: np.ndarray) -> bool:
            """Trained, as before, if they are."""
            try:
                rows = table.pull(ids)
            except (Unavailable, StateLost):
                return False
            np.testing.assert_array_equal(rows, np.full((len(ids), 4), -1, np.float32))
            return True

        until(lambda: not served(IDS))
        assert least_seconds(lambda: served(IDS), 2 * client.timeout_s) < 2 * client.timeout_s
        # The rows of the shard that lives are served; on a busy machine not at once.
        halves = [IDS[shard::2] for shard in range(2)]
        until(lambda: any(served(ids) for ids in halves))
        assert not all(served(ids) for ids in halves)
    down_ray("spread")
