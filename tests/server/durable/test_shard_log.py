"""Logs of shards that begin, go on and are dropped, beside each other."""

import pytest
from virtual_disk import VirtualDisk

from rowloom.proto.errors import Unavailable
from rowloom.server.durable.extents import Owner
from rowloom.server.durable.log import Mode
from rowloom.server.durable.shard_log import ShardLogs

OWNER = Owner("c", 2, 0)


def logs_on(disk: VirtualDisk) -> ShardLogs:
    return ShardLogs("/logs", Mode.DISK, segment_bytes=8192, disk=disk)


def test_a_log_begins_when_nobody_has_the_one_of_its_name_any_more() -> None:
    # A scaling that failed leaves logs of an epoch that the next one uses again. The old one was dropped by its name,
    # which by then was that of the new one: pushes were acknowledged into a log that was not there any more.
    disk = VirtualDisk()
    logs, others = logs_on(disk), logs_on(disk.beside())
    old = logs.begin(OWNER)
    for one in (logs, others):
        with pytest.raises(Unavailable, match="still in use"):
            one.begin(OWNER)
    logs.drop(old)
    new = others.begin(OWNER)
    assert others.has(OWNER)
    new.close()


def test_a_log_that_is_dropped_leaves_one_alone_that_begins_meanwhile() -> None:
    disk = VirtualDisk()
    logs, others = logs_on(disk), logs_on(disk.beside())
    old, new = logs.begin(OWNER), []

    def before(method: str, name: str) -> None:
        if method == "remove_folder":
            new.append(others.begin(OWNER))

    disk.before = before
    logs.drop(old)
    assert others.has(OWNER)
    assert disk.names("/logs/c/epoch-2") == ["shard-0"]
    new[0].close()


def test_a_log_that_another_server_has_dropped_already_is_dropped_without_a_word() -> None:
    disk = VirtualDisk()
    logs, others = logs_on(disk), logs_on(disk.beside())
    old = logs.begin(OWNER)
    others.begin(Owner("c", 3, 0))
    others.drop_older(Owner("c", 3, 0))
    logs.drop(old)
    assert not logs.has(OWNER)
