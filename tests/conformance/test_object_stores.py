"""Snapshots in an object store: a server that speaks S3, the client that people have for it, and shards."""

from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("s3fs")
pytest.importorskip("moto")

import boto3
import s3fs
from memory_client import MemoryClient
from moto.server import ThreadedMotoServer

from rowloom.client import (
    SGD,
    InvalidRequest,
    SnapshotCorrupt,
    TableSpec,
    Unavailable,
    Vocabulary,
    Zeros,
    connect,
    open_snapshot,
)
from rowloom.client.files import export_table, from_pretrained, import_table
from rowloom.deploy.config.config import parse
from rowloom.deploy.coordinator_server import CoordinatorServer
from rowloom.deploy.launch.launcher import Launched
from rowloom.deploy.launch.local_launcher import ThreadLauncher
from rowloom.deploy.operate.remote import Remote
from rowloom.proto.snapshots.differing import difference
from rowloom.proto.snapshots.listing import list_snapshots
from rowloom.server.serve import Server
from rowloom.server.snapshots.target import ObjectTarget, target_of

SPEC = TableSpec("t", 2000, dim=8, optimizer=SGD(lr=1.0), initializer=Zeros())
# boto3 of these days calls a function of Python that is deprecated, and leaves sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def store(endpoint, monkeypatch, tmp_path) -> Iterator[str]:
    """URL of an empty bucket, for whoever reads the environment."""
    monkeypatch.setenv("HOME", str(tmp_path))  # no credentials of whoever runs this
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    s3fs.S3FileSystem.clear_instance_cache()
    bucket = boto3.resource("s3").Bucket("bucket")
    bucket.create()
    yield "s3://bucket"
    bucket.objects.all().delete()
    bucket.delete()
    s3fs.S3FileSystem.clear_instance_cache()


class StoringLauncher(ThreadLauncher):
    """Servers in threads that keep snapshots somewhere."""

    def __init__(self, snapshots: str) -> None:
        super().__init__()
        self._snapshots = snapshots

    def start(self, key: int) -> Launched:
        """As `Launcher`."""
        server = Server(snapshots=self._snapshots)
        server.start()
        self._running[key] = server
        return Launched(server.address, server.incarnation)


@pytest.fixture
def remote(store) -> Iterator[Remote]:
    storage = f"{store}/ads"
    config = parse({"name": "s", "shards": 2, "storage": storage, "tables": [SPEC]})
    server = CoordinatorServer(config, StoringLauncher(f"{storage}/snapshots"))
    server.start()
    with Remote(server.address) as remote:
        yield remote
    server.stop()


def test_snapshots_and_increments_go_into_a_bucket_and_come_back(remote, store):
    with connect(remote.address) as client:
        table, ids = client.table("t"), np.arange(1000)
        table.push(ids, np.ones((1000, 8), np.float32))
        first = client.snapshot({"step": 1})
        table.push(ids[:5], np.ones((5, 8), np.float32))
        second = client.snapshot({"step": 2})
        found, values, _ = open_snapshot(second.path).rows("t")
        np.testing.assert_array_equal(values, table.pull(found))
    assert second.path.startswith(f"{store}/ads/snapshots/")
    assert second.parent == first.id
    assert second.bytes < first.bytes / 5
    assert open_snapshot(second.path).extra == {"step": 2}
    assert open_snapshot(second.path).verify().snapshots == 2
    assert difference(first.path, second.path)[0].differing == 5
    assert [one.lineage for one in list_snapshots(f"{store}/ads/snapshots")] == [
        (first.id,),
        (first.id, second.id),
    ]


def test_old_ones_are_removed_from_a_bucket(remote, store):
    made = [remote.take_snapshot(full=True, keep=1).id for _ in range(4)]
    assert [one.id for one in list_snapshots(f"{store}/ads/snapshots")] == made[-2:]
    fs = s3fs.S3FileSystem()
    fs.invalidate_cache()
    assert {path.split("/")[3] for path in fs.find("bucket/ads/snapshots")} == set(made[-2:])


def test_a_file_that_is_damaged_or_missing_in_a_bucket_is_named(remote):
    with connect(remote.address) as client:
        client.table("t").push(np.arange(1000), np.ones((1000, 8), np.float32))
        taken = client.snapshot()
    fs = s3fs.S3FileSystem()
    path = f"{taken.path}/shard-00001/t.rows-00000.safetensors"
    data = bytearray(fs.cat_file(path))
    data[5000] ^= 1
    fs.pipe_file(path, bytes(data))
    with pytest.raises(SnapshotCorrupt, match=f"{path} is damaged: block 0"):
        open_snapshot(taken.path).verify()
    fs.rm_file(path)
    with pytest.raises(SnapshotCorrupt, match=f"{path} is missing"):
        open_snapshot(taken.path).verify()
    fs.rm_file(f"{taken.path}/MANIFEST.json")
    with pytest.raises(SnapshotCorrupt, match="never finished"):
        open_snapshot(taken.path)


def test_a_bucket_that_is_not_there_is_said_in_one_line(store):
    with pytest.raises(
        OSError, match=r"^s3://nowhere-at-all/x/a cannot be written: .*bucket does not exist$"
    ):
        target_of("s3://nowhere-at-all/x").put("a", [b"a"])
    with pytest.raises(SnapshotCorrupt, match="s3://nowhere-at-all/x does not exist"):
        open_snapshot("s3://nowhere-at-all/x")
    with pytest.raises(InvalidRequest, match="s3://nowhere-at-all/x does not exist"):
        list_snapshots("s3://nowhere-at-all/x")


@pytest.mark.parametrize("name", ["x.npy", "x.safetensors", "x.parquet", "x.vec", "x.pt", "x.ckpt"])
def test_tables_go_into_a_bucket_as_files_and_come_back(store, name):
    if name.endswith((".pt", ".ckpt")):
        pytest.importorskip("torch" if name == "x.pt" else "tensorflow", reason="needs the framework")
    memory, rows = MemoryClient(), np.arange(12, dtype=np.float32).reshape(6, 2) / 7
    words = Vocabulary(["a", "b", "c"], pad=None, buckets=2)
    table = memory.create_table(words.attach(TableSpec("w", 6, dim=2)), rows)
    for _ in range(2):  # what is there is replaced
        assert export_table(table, f"{store}/models/{name}") == 6
    done = from_pretrained(memory, f"{store}/models/{name}", "back")
    np.testing.assert_array_equal(done.table.rows, rows)
    assert done.vocabulary == words
    assert import_table(table, f"{store}/models/{name}").rows == 6


def test_files_in_a_bucket_that_are_not_there_or_closed_are_said_in_one_line(store, monkeypatch):
    memory = MemoryClient()
    with pytest.raises(FileNotFoundError, match=f"^no file {store}/none.npy$"):
        from_pretrained(memory, f"{store}/none.npy", "t")
    table = memory.create_table(TableSpec("t", 1, dim=1))
    with pytest.raises(
        Unavailable, match=r"^s3://nowhere-at-all/x\.npy cannot be written: .*bucket does not exist$"
    ):
        export_table(table, "s3://nowhere-at-all/x.npy")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    for call in (import_table, export_table):
        with pytest.raises(Unavailable, match=f"^{store}/x.npy cannot be .*: Unable to locate credentials$"):
            call(table, f"{store}/x.npy")


def test_missing_credentials_are_said_in_one_line(store, remote, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    s3fs.S3FileSystem.clear_instance_cache()
    monkeypatch.setattr("rowloom.server.snapshots.target.AGAIN_S", ())
    with pytest.raises(
        Unavailable,
        match=r"could not write its part: .*Unable to locate credentials; there is no new snapshot$",
    ):
        remote.take_snapshot()
    with pytest.raises(
        Unavailable, match=r"cannot be read: NoCredentialsError: Unable to locate credentials$"
    ):
        open_snapshot(f"{store}/x")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    s3fs.S3FileSystem.clear_instance_cache()
    assert remote.take_snapshot().state == "done"


def test_a_key_that_is_refused_is_said_in_one_line(store, monkeypatch):
    fs = s3fs.S3FileSystem()

    class Refusing:
        def __getattr__(self, name):
            return getattr(fs, name)

        def pipe_file(self, path, data):
            raise PermissionError(13, "Access Denied")

    pauses = []
    with pytest.raises(OSError, match=r"^s3://bucket/x/a cannot be written: Access Denied$"):
        ObjectTarget(Refusing(), "bucket/x", pauses.append).put("a", [b"a"])
    assert pauses == []
