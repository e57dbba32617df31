"""Where a cluster runs with another config than its file says: what is said of it, and what can be done."""

import pytest

from rowloom.deploy.config.changes import compared, diff, refuse, ways_out
from rowloom.deploy.config.config import parse
from rowloom.deploy.config.fixed import why_fixed
from rowloom.proto.errors import InvalidRequest

FROM_LOGS = why_fixed("ads", "ads.yaml", storage=True, logs=True)
SNAPSHOT = why_fixed("ads", "ads.yaml", storage=True, logs=False)
EXPORT = why_fixed("ads", "ads.yaml", storage=False, logs=False)
ADS = {"name": "ads", "shards": 3, "storage": "/kept"}


def said(old: dict, new: dict) -> str:
    return ways_out(diff(parse(old), parse(new), "ads.yaml"), "ads.yaml")


def test_after_a_scaling_the_old_file_was_answered_with_down_and_the_loss_of_all_rows():
    (change,) = diff(parse(ADS), parse(ADS | {"shards": 2}))
    assert compared([change], "ads.yaml") == ["shards: 3 run, ads.yaml says 2"]
    assert ways_out([change], "ads.yaml") == (
        "Either edit ads.yaml so that it says what runs (`shards: 3`); or `rowloom apply ads.yaml` brings the cluster "
        "to what the file says (shards: 3 -> 2)"
    )


def test_what_apply_cannot_change_is_not_said_to_be_changed_by_it():
    text = said(ADS, ADS | {"shards": 2, "port": 7400, "log": {"level": "debug"}})
    assert "`port: 0`, `log.level: 'info'`" in text
    assert "`rowloom apply` cannot change all of that" in text
    assert text.endswith(f"port, log.level: {FROM_LOGS}")


def test_what_is_read_at_each_start_was_said_to_cost_all_rows_that_are_in_logs():
    def reason(old: dict, new: dict) -> str:
        (change,) = diff(parse(old), parse(new), "ads.yaml")
        assert change.action == "refused"
        return change.reason

    assert reason(ADS, ADS | {"port": 7400}) == FROM_LOGS
    assert "`rowloom down --keep --name ads`, then `rowloom up ads.yaml`" in FROM_LOGS
    in_memory = {"name": "ads", "shards": 3}
    assert reason(in_memory, in_memory | {"port": 7400}) == EXPORT
    assert reason(ADS, ADS | {"storage": "/other"}) == SNAPSHOT
    assert reason(ADS, ADS | {"durability": "memory"}) == SNAPSHOT


def test_another_storage_was_said_to_cost_all_slots_although_a_snapshot_keeps_them():
    first, *then = (part.split("`")[0] for part in SNAPSHOT.split("`rowloom ")[1:])
    assert first == "snapshot --name ads"
    assert then[0] == "restore URL ads.yaml"
    assert then[1] == "down --name ads"
    assert then[2] == "export TABLE ROWS.npy --name ads"
    assert "snapshot" not in EXPORT  # without a storage there is none
    assert "which loses all rows" in EXPORT


def test_what_keeps_the_rows_is_said_once_where_several_changes_are_refused():
    with pytest.raises(InvalidRequest) as refused:
        refuse(diff(parse(ADS), parse(ADS | {"storage": "/other", "carrier": "grpc"}), "ads.yaml"))
    assert str(refused.value).count("rowloom snapshot") == 1
    assert "carrier: 'auto' -> 'grpc': as storage" in str(refused.value)
