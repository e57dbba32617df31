"""What of a table can be read, and what cannot, where shards do not serve."""

import pytest

from rowloom.client import TableSpec
from rowloom.deploy.operate.partial import left_out, readable


@pytest.mark.parametrize("partition", ["mod", "div"])
@pytest.mark.parametrize("hashed", [False, True])
def test_as_many_ids_are_left_out_of_trained_rows_as_of_all(partition, hashed):
    spec = TableSpec("users", 1001, dim=1, partition=partition, hash_ids=hashed and partition == "mod")
    assert left_out(spec, 4, [0, 3]) == readable(spec, None, 4, [0, 3]).missing
    assert left_out(spec, 4, range(4)) == {}


def test_of_ids_without_end_nobody_knows_how_many_are_left_out():
    assert left_out(TableSpec("open", dim=1), 3, [1]) == {0: None, 2: None}
