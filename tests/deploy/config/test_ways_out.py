"""Where a cluster runs with another config than its file says: what is said of it, and what can be done."""

from rowloom.deploy.config.changes import FIXED, FROM_LOGS, compared, diff, ways_out
from rowloom.deploy.config.config import parse

ADS = {"name": "ads", "shards": 3, "storage": "/kept"}


def said(old: dict, new: dict) -> str:
    return ways_out(diff(parse(old), parse(new)), "ads.yaml")


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
        (change,) = diff(parse(old), parse(new))
        assert change.action == "refused"
        return change.reason

    assert reason(ADS, ADS | {"port": 7400}) == FROM_LOGS
    assert "`rowloom down --keep`" in FROM_LOGS
    in_memory = {"name": "ads", "shards": 3}
    assert reason(in_memory, in_memory | {"port": 7400}) == FIXED
    assert reason(ADS, ADS | {"storage": "/other"}) == FIXED
    assert reason(ADS, ADS | {"durability": "memory"}) == FIXED
