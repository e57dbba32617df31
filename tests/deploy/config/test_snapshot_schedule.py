"""How often a cluster takes snapshots by itself, as its owner writes it."""

import pytest

from rowloom.deploy.config.config import InvalidConfig, parse


def test_a_time_is_told_as_people_write_it():
    def every(value):
        return parse({"storage": "/x", "snapshots": {"every": value}}).snapshots.every

    assert [every(value) for value in ("90s", "10m", "1.5h", " 1 d ", 30)] == [90, 600, 5400, 86400, 30]
    for wrong in ("10", "0s", "-1s", "10 minutes", "", 0, True, "400d"):
        with pytest.raises(InvalidConfig, match=r"snapshots\.every.* must be a time of 1 s to 366 d"):
            every(wrong)
    with pytest.raises(InvalidConfig, match=r"snapshots\.every.* needs `storage:`"):
        parse({"snapshots": {"every": "10m"}})
