"""Every RPC's full name, once; and which of them also ride on the row lane.

The names are those of `rowloom.proto`: a test holds this list to it.
"""

from __future__ import annotations

SHARD = "/rowloom.v1.Shard/"
DIRECTORY = "/rowloom.v1.Directory/"
COORDINATOR = "/rowloom.v1.Coordinator/"

# Rows.
PULL = SHARD + "Pull"
PUSH = SHARD + "Push"
STEP = SHARD + "Step"
PULL_BAGS = SHARD + "PullBags"
ROWS = (PULL, PUSH, STEP, PULL_BAGS)

# One shard.
DESCRIBE_LANE = SHARD + "DescribeLane"
SHARD_CREATE_TABLE = SHARD + "CreateTable"
SHARD_DROP_TABLE = SHARD + "DropTable"
LIST_TABLES = SHARD + "ListTables"
SHARD_SET_LEARNING_RATE = SHARD + "SetLearningRate"
STATISTICS = SHARD + "Statistics"
ADOPT = SHARD + "Adopt"
PREPARE = SHARD + "Prepare"
FREEZE = SHARD + "Freeze"
BRAKE = SHARD + "Brake"
READ_PASS = SHARD + "ReadPass"
READ_ROWS = SHARD + "ReadRows"
READ_LEDGER = SHARD + "ReadLedger"
HOTTEST_IDS = SHARD + "HottestIds"
PROGRESS = SHARD + "Progress"
STAND_BY = SHARD + "StandBy"
SET_STANDBY = SHARD + "SetStandby"
ATTACH = SHARD + "Attach"
FOLLOW = SHARD + "Follow"
SHUT_DOWN_SHARD = SHARD + "Shutdown"
CUT = SHARD + "Cut"
CUT_PROGRESS = SHARD + "CutProgress"
TRIM_LOG = SHARD + "TrimLog"

# What a lane carries, which says by the place here which one it means: add at the end only.
ON_LANE = (*ROWS, READ_PASS)

# Whoever knows the layout: shards and the coordinator.
DESCRIBE_LAYOUT = DIRECTORY + "DescribeLayout"
HEALTH = DIRECTORY + "Health"

# The coordinator.
CREATE_TABLE = COORDINATOR + "CreateTable"
DROP_TABLE = COORDINATOR + "DropTable"
SET_LEARNING_RATE = COORDINATOR + "SetLearningRate"
SCALE = COORDINATOR + "Scale"
SCALE_PROGRESS = COORDINATOR + "ScaleProgress"
CANCEL_SCALE = COORDINATOR + "CancelScale"
SET_AUTOSCALE = COORDINATOR + "SetAutoscale"
SET_QUOTAS = COORDINATOR + "SetQuotas"
SET_REPLICAS = COORDINATOR + "SetReplicas"
DRAIN = COORDINATOR + "Drain"
UPGRADE = COORDINATOR + "Upgrade"
ACCEPT_LOSS = COORDINATOR + "AcceptLoss"
TAKE_SNAPSHOT = COORDINATOR + "TakeSnapshot"
DESCRIBE_RESTORED = COORDINATOR + "DescribeRestored"
STATUS = COORDINATOR + "Status"
SHUT_DOWN = COORDINATOR + "Shutdown"
