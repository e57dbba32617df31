"""A standby takes the log of its shard, whose server has ended, and goes on with both.

    the log's end, and what the standby has more or less ─▶ the same in both ─▶ served
              └─ cannot be read ─▶ all of the log, as after a restart ─▶ served
                                        └─ cannot be read ─▶ the standby's rows, and a log that takes nothing yet

Why it is so. What must hold: what was acknowledged is there, and stays there if this server ends, too. The log has all
of that, also what a standby lacks that pushes did not wait for (`async`). So it decides, as long as it can be read, and
the standby's rows are why that need not take long. Where it cannot, as when its disk is gone, the standby has all that
pushes waited for. Then pulls go on and pushes are refused, as with any log that failed, until a snapshot has the rows
(`Journal.renew`).
"""

from __future__ import annotations

import logging

from ...proto.errors import RowloomError, in_words
from ..durable.records import LogCorrupt
from ..durable.segments import LogInUse
from ..durable.shard_log import ShardLog, ShardLogs
from ..durable.succession import Succession
from ..shard import Shard

log = logging.getLogger(__name__)


def succeed(logs: ShardLogs, task: Succession, *, patient: bool) -> tuple[Shard, ShardLog]:
    """The shard as it is to be served, and its log, open behind it.

    Args:
        logs: where that is.
        task: what there is.
        patient: a disk that does not answer may do so soon.

    Raises:
        LogInUse: the server before has it yet, so that it may serve.
        OSError: of a patient one.
    """
    try:
        if task.place.unlogged:
            raise LogCorrupt("it had failed: it lacks changes that the standby has")
        if not task.place.based:
            raise LogCorrupt("whether it has all that the standby was filled with is not known")
        return task.shard, logs.go_on(task.owner, task.shard, task.place)
    except LogInUse:
        raise
    except (RowloomError, OSError) as e:
        log.warning("the standby of %s cannot go on with its log as it ends: %s", task.owner, in_words(e))
    try:
        return _recovered(logs, task)
    except LogInUse:
        raise
    except (RowloomError, OSError) as e:
        if patient and isinstance(e, OSError):
            raise
        why = in_words(e)
    log.error("%s cannot be read from its log: its standby has the rows. %s", task.owner, why)
    return task.shard, logs.unread(task.owner, task.place.lsn, why)


def _recovered(logs: ShardLogs, task: Succession) -> tuple[Shard, ShardLog]:
    """All of the log, as after a restart. Raises as `ShardLogs.recover`, also where it has less than was safe in it."""
    if not logs.has(task.owner):
        raise LogCorrupt(
            f"there is no log of {task.owner}: its folder was removed, or its disk is not mounted"
        )
    shard, journal = logs.recover(task.owner, task.make, task.snapshots)
    if journal.lsn < task.place.safe_lsn:
        journal.close(sync=False)
        raise LogCorrupt(
            f"the log of {task.owner} ends with record {journal.lsn}; record {task.place.safe_lsn} was in it"
        )
    return shard, journal
