"""How ids are dealt, in another config: what `apply` would do about that."""

import dataclasses

from rowloom.client import Adagrad, TableSpec
from rowloom.deploy.config.changes import diff, refuse
from rowloom.deploy.config.config import DeployConfig, parse

USERS = TableSpec("users", 10_000, dim=8, optimizer=Adagrad(lr=0.05))


def actions(old: DeployConfig, new: DeployConfig) -> dict[str, str]:
    return {change.path: change.action for change in diff(old, new)}


def test_ids_can_be_dealt_otherwise_while_it_runs_beside_all_other_changes():
    old = parse({"shards": 2, "tables": [USERS]})
    new = parse({"shards": 3, "tables": [dataclasses.replace(USERS, partition="div")]})
    assert actions(old, new) == {"shards": "scale", "tables.users.partition": "deal"}
    hashed = parse({"shards": 2, "tables": [dataclasses.replace(USERS, hash_ids=True)]})
    assert actions(old, hashed) == {"tables.users.hash_ids": "deal"}
    assert actions(hashed, new) == {
        "shards": "scale",
        "tables.users.partition": "deal",
        "tables.users.hash_ids": "deal",
    }
    refuse(diff(hashed, new))
