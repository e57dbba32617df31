"""Quotas of principals in a cluster: who owns what, over each carrier, through moves and restores, and changed live."""

import threading

import numpy as np
import pytest
from secured import SecuredFolder

from rowloom.client import SGD, InvalidRequest, PushUnresolved, QuotaExceeded, TableSpec, Zeros, connect
from rowloom.client.carriers.transport import CARRIERS
from rowloom.deploy import local_cluster
from rowloom.deploy.config.config import parse
from rowloom.deploy.observe.quotas import quota_summary
from rowloom.deploy.operate.applying import apply
from rowloom.deploy.operate.remote import Remote
from rowloom.proto.security.credentials import Credentials


def spec_of(name: str) -> TableSpec:
    return TableSpec(name, 100_000, dim=4, optimizer=SGD(lr=1.0), initializer=Zeros())


def ones(count: int) -> np.ndarray:
    return np.full((count, 4), -1, np.float32)


def credentials(folder: SecuredFolder) -> Credentials:
    return Credentials(ca=folder["ca.pem"], token_file=folder["cluster.token"])


@pytest.fixture
def folder(tmp_path) -> SecuredFolder:
    folder = SecuredFolder(tmp_path / "secured")
    for who in ("ann", "bob"):
        folder.token(who, "pull:*", "push:*", "create:*")
    return folder


@pytest.mark.parametrize("carrier", CARRIERS)
def test_a_principal_is_bound_on_every_carrier_and_others_are_not(folder, carrier) -> None:
    quotas = {"default": {"rows": 100, "tables": 2, "calls": 3}, "principals": {"bob": {}}}
    with (
        local_cluster(1, security=folder.section(), quotas=quotas, tables=[spec_of("ours")]) as cluster,
        connect(cluster.address, carrier=carrier, **folder.shown("ann")) as ann,
        connect(cluster.address, carrier=carrier, **folder.shown("bob")) as bob,
    ):
        mine = ann.create_table(spec_of("mine"))
        assert mine.entry.owner == "ann"
        assert ann.create_table(spec_of("mine")).entry.owner == "ann"  # again
        ann.create_table(spec_of("other"))
        with pytest.raises(
            QuotaExceeded, match=r"'ann' has created 2 tables \(mine, other\), and its quota is 2"
        ):
            ann.create_table(spec_of("third"))
        mine.push(np.arange(60), ones(60))
        for pusher in (ann, bob):  # whoever pushes: the rows are those of the table's owner
            with pytest.raises(QuotaExceeded, match="'ann' has 60 rows on this shard"):
                pusher.table("mine").push(np.arange(50, 101), ones(51))
        assert not mine.pull(np.arange(60, 101)).any()
        ann.table("ours").push(np.arange(500), ones(500))
        bob.create_table(spec_of("bobs")).push(np.arange(500), ones(500))
        # More calls at once than may be: each comes again until it is let in.
        some = np.arange(60)
        threads = [threading.Thread(target=mine.push, args=(some, ones(60))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (mine.pull(some) == 9.0).all()


def test_quotas_are_changed_live_and_stay_through_moves_and_a_coordinators_end(folder, tmp_path) -> None:
    quotas = {"default": {"rows": 100}}
    tables = [spec_of("ours")]
    with (
        local_cluster(2, security=folder.section(), quotas=quotas, tables=tables) as cluster,
        connect(cluster.address, **folder.shown("ann")) as ann,
        Remote(cluster.address, credentials=credentials(folder)) as remote,
    ):
        mine = ann.create_table(spec_of("mine"))
        mine.push(np.arange(100), ones(100))
        with pytest.raises((QuotaExceeded, PushUnresolved)):
            mine.push([100, 101, 102], ones(3))
        cluster.scale(3)
        assert mine.pull(np.arange(100)).all()
        with pytest.raises(QuotaExceeded, match="each of 3 shards has an equal share"):
            mine.push([102], ones(1))
        wanted = parse(
            {
                "name": "local",
                "shards": 3,
                "security": folder.section(),
                "quotas": {"principals": {"ann": {"rows": 300, "bytes": "1MiB"}}},
                "tables": tables,
            }
        )
        done, _ = apply(wanted, remote, remote.status())
        assert [change.action for change in done.changes if change.action != "keep"] == ["quotas"]
        mine.push(np.arange(200), ones(200))
        (said,) = quota_summary(remote.status())
        assert said["principal"] == "ann"
        assert said["tables"] == {"used": 1, "quota": None, "fullest": None, "refused": 0}
        assert (said["rows"]["used"], said["rows"]["quota"], said["rows"]["fullest"]) == (200, 300, 0.67)
        assert said["rows"]["refused"] >= 2
        assert said["bytes"]["quota"] == 1 << 20
        stored = cluster._server.coordinator.state
        assert stored.quotas is not None
        assert type(stored).from_json(stored.to_json()).quotas == stored.quotas
        assert stored.from_json(stored.to_json()).tables["mine"].owner == "ann"


def test_a_tables_owner_is_in_a_snapshot_and_what_it_holds_is_restored_also_beyond_a_quota(
    folder, tmp_path
) -> None:
    common = {"security": folder.section(), "storage": tmp_path / "stored"}
    with local_cluster(1, **common) as cluster, connect(cluster.address, **folder.shown("ann")) as ann:
        ann.create_table(spec_of("mine")).push(np.arange(50), ones(50))
        with connect(cluster.address, **folder.shown("cluster")) as operator:
            path = operator.snapshot().path
    quotas = {"default": {"rows": 10}}
    with (
        local_cluster(2, restore=path, quotas=quotas, **common) as cluster,
        connect(cluster.address, **folder.shown("bob")) as bob,
    ):
        mine = bob.table("mine")
        assert mine.entry.owner == "ann"
        assert mine.pull(np.arange(50)).all()
        mine.push(np.arange(50), ones(50))
        with pytest.raises(QuotaExceeded, match="'ann' has 25 rows"):
            mine.push([50], ones(1))


def test_a_cluster_without_principals_takes_no_quotas() -> None:
    with local_cluster(1) as cluster, Remote(cluster.address) as remote:
        with pytest.raises(InvalidRequest, match="has no principals that could have quotas"):
            remote.set_quotas('{"default": {"rows": 1}}')
        with pytest.raises(InvalidRequest, match="no JSON"):
            remote.set_quotas("{")
    with pytest.raises(InvalidRequest, match=r"needs `security\.tokens`"):
        local_cluster(1, quotas={"default": {"rows": 1}})
