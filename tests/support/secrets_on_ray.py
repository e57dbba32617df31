"""A cluster with TLS and tokens on a Ray of its own, and a look for its secrets wherever others may look.

python secrets_on_ray.py FOLDER PLACES

PLACES becomes JSON: where each secret was found, and where those were that are planted on purpose.
A process of its own, because Ray reads once in a process how clients show who they are, and other tests' differs.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import ssl
import subprocess
import sys
import urllib.request
import zlib
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from secured import SecuredFolder
from waiting import until

from rowloom.client import Unauthenticated, connect
from rowloom.deploy import cli
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.launch.processes import marked
from rowloom.deploy.launch.ray_session import attached
from rowloom.deploy.operate import local_ray
from rowloom.deploy.operate.clusters import down, reach, up
from rowloom.deploy.operate.directory import ClusterDirectory

# Of whoever starts the cluster. Servers have the second: who keeps rows in an object store must show it there.
OF_ENVIRONMENT = {"token of the environment": "ROWLOOM_TOKEN", "object store": "AWS_SECRET_ACCESS_KEY"}
REFUSED = "rowloom_" + 6 * "refused"
SERVICES = (
    ("ActorInfo", "GetAllActorInfo"),
    ("JobInfo", "GetAllJobInfo"),
    ("NodeInfo", "GetAllNodeInfo"),
    ("PlacementGroupInfo", "GetAllPlacementGroup"),
    ("TaskInfo", "GetTaskEvents"),
    ("WorkerInfo", "GetAllWorkerInfo"),
)
"""What `ray list actors --detail` and its like ask Ray's head for; with no dashboard they are asked for here."""
CONSOLE = ("/", "/console.js", "/metrics", "/state", "/targets")
Text = tuple[str, bytes]  # where it stands, and what


def of_key(path: Path) -> list[bytes]:
    """The private number of a PEM file, and the line of the file that begins it."""
    text = path.read_bytes()
    key = load_pem_private_key(text, None)
    assert isinstance(key, EllipticCurvePrivateKey)
    number = key.private_numbers().private_value.to_bytes(32, "big")
    return [text.splitlines()[1], number, number.hex().encode()]


def of_text(secret: str) -> list[bytes]:
    """As it is, and in base64 as it may stand in the middle of other text."""
    found = [secret.encode()]
    for k in range(3):  # the first and the last group of four have something of what is beside it
        found.append(base64.b64encode(bytes(k) + secret.encode())[4:-4])
    return found


def opened(data: bytes) -> Iterator[bytes]:
    """Bytes, and what is packed inside: a config is handed to an actor so."""
    yield data
    at = data.find(b"\x78\x9c")
    while at >= 0:
        with contextlib.suppress(zlib.error):
            yield zlib.decompressobj().decompress(data[at:])
        at = data.find(b"\x78\x9c", at + 1)


class Searched:
    """All that others may see of a cluster and of the Ray below it.

    Attributes:
        said: what commands printed, and errors said.
    """

    def __init__(self, directory: ClusterDirectory, folder: SecuredFolder, kept: list[Path]) -> None:
        self._directory = directory
        self._folder = folder
        self._kept = kept
        self.said: list[Text] = []

    def texts(self) -> Iterator[Text]:
        """Each with where it stands."""
        yield from self.said
        yield from self._arguments()
        yield from self._environments()
        yield from self._files()
        yield from self._of_ray()
        yield from self._pages()

    def places(self, secrets: dict[str, list[bytes]]) -> tuple[dict[str, list[str]], Counter[str]]:
        """Where each secret is, and how many texts of each kind were looked through."""
        found: dict[str, set[str]] = {name: set() for name in secrets}
        looked: Counter[str] = Counter()
        for where, text in self.texts():
            looked[where.partition(":")[0]] += 1
            for data in opened(text):
                for name, spelt in secrets.items():
                    if any(one in data for one in spelt):
                        found[name].add(where)
        return {name: sorted(places) for name, places in found.items()}, looked

    def _arguments(self) -> Iterator[Text]:
        """Of every process of this machine, as `ps` shows them."""
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                yield f"arguments: {file.parent.name}", file.read_bytes()

    def _environments(self) -> Iterator[Text]:
        """Of Ray's processes and of servers: they all carry the mark of this Ray."""
        for pid, _ in marked(str((self._directory.home / "ray").absolute())):
            with contextlib.suppress(OSError):
                name = Path(f"/proc/{pid}/comm").read_text().strip()
                yield f"environment: {name}", Path(f"/proc/{pid}/environ").read_bytes()

    def _files(self) -> Iterator[Text]:
        """Logs of Ray, files of its head, our records and logs, and the storage. Not the file of the token itself."""
        kinds = {"ray": Path(os.environ["RAY_TMPDIR"]), "home": self._directory.home}
        for kind, root in [*kinds.items(), *((path.name, path) for path in self._kept)]:
            for file in root.rglob("*"):
                if file.is_file() and not file.is_symlink() and file.name != "ray.token":
                    with contextlib.suppress(OSError):
                        yield f"{kind}: {file.relative_to(root)}", file.read_bytes()

    def _of_ray(self) -> Iterator[Text]:
        """What Ray's head tells of actors, tasks, jobs, workers and nodes, and all that its internal store has."""
        from ray._private.grpc_utils import init_grpc_channel
        from ray._private.worker import global_worker
        from ray.core.generated import gcs_service_pb2 as messages
        from ray.core.generated import gcs_service_pb2_grpc as services

        own = local_ray.find(self._directory)
        assert own is not None
        channel = init_grpc_channel(own.address)
        with contextlib.closing(channel):
            for service, method in SERVICES:
                ask: Any = getattr(getattr(services, f"{service}GcsServiceStub")(channel), method)
                reply = ask(getattr(messages, f"{method}Request")(), timeout=20)
                assert reply.ByteSize() > 10, method
                yield f"state: {method}", reply.SerializeToString() + str(reply).encode()
        store: Any = global_worker.gcs_client
        for space in (None, b"fun", b"session", b"dashboard", b"serve", b"actor_class", b"cluster", b"job"):
            for key in store.internal_kv_keys(b"", space):
                yield f"kv: {space} {key[:60]}", key + (store.internal_kv_get(key, space) or b"")

    def _pages(self) -> Iterator[Text]:
        """Metrics of all processes, and the console."""
        context = ssl.create_default_context(cafile=self._folder["ca.pem"])
        context.check_hostname = False  # the name that all servers share is none of a URL
        shown = {"Authorization": f"Bearer {Path(self._folder['prometheus.token']).read_text().strip()}"}

        def page(url: str) -> bytes:
            with urllib.request.urlopen(urllib.request.Request(url, headers=shown), context=context) as reply:
                return reply.read()

        remote, status = reach(self._directory.get("ads"), self._directory)
        remote.close()
        for shard in status.shards:
            yield "page: of a shard", page(f"https://{shard.statistics.metrics_address}/metrics")
        for path in CONSOLE:
            yield f"page: {path}", page(f"https://{status.metrics_address}{path}")


def used(directory: ClusterDirectory, folder: SecuredFolder, address: str, searched: Searched) -> None:
    """All that shows a secret to a server, or might tell one: trainers, refused ones, a move, commands."""
    shown = {"ca": folder["ca.pem"], "server_name": "localhost"}
    with connect(address, token_file=folder["trainer.token"], **shown) as client:
        client["users"].push(np.arange(100), np.ones((100, 4), np.float32))
        remote, _ = reach(directory.get("ads"), directory)
        with remote:
            remote.scale(2)
        assert client["users"].pull([99])[0].any()
    with pytest.raises(Unauthenticated) as caught:
        connect(address, token=REFUSED, **shown)
    searched.said.append(("said: a refused trainer", str(caught.value).encode()))
    os.environ["ROWLOOM_HOME"] = str(directory.home)
    for command in ("status --json", "status", "list --json", "logs"):
        until(lambda command=command: said(command, searched) == 0)  # a busy machine may not answer at once


def said(command: str, searched: Searched) -> int:
    """Run a command here, where it need not be imported. Returns its exit code."""
    sys.argv = ["rowloom", *command.split()]
    with io.StringIO() as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            cli.main()
        except SystemExit as e:
            return int(e.code or 0)
        finally:
            searched.said.append((f"said: rowloom {command}", out.getvalue().encode()))
    return 0


class Careless:
    """A server that is handed its token, packed as a config is, and writes it to its log."""

    def __init__(self, given: bytes) -> None:
        print("given", zlib.decompress(given).decode(), flush=True)

    def up(self) -> None:
        """It is."""


@contextlib.contextmanager
def planted(folder: Path) -> Generator[dict[str, list[bytes]]]:
    """Secrets of nobody in every place, as if we had put them there: the same look must see them."""
    import ray

    secrets = {name: f"rowloom_{6 * name}" for name in ("argument", "variable", "stored", "written", "typed")}
    options = {"num_cpus": 0.1, "runtime_env": {"env_vars": {"CARELESS": secrets["variable"]}}}
    made = zlib.compress(secrets["argument"].encode())
    actor = ray.remote(Careless).options(name="careless", namespace="rowloom", **options).remote(made)
    ray.get(actor.up.remote())
    ray.experimental.internal_kv._internal_kv_put(b"careless", secrets["stored"].encode())
    (folder / "careless").write_bytes(base64.b64encode(f"any:{secrets['written']}".encode()))
    stays = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", secrets["typed"]]
    # It stays until its input is closed, and says when it runs: `Popen` comes back before its arguments are shown.
    with subprocess.Popen(stays, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as typed:
        assert typed.stdout is not None
        typed.stdout.readline()
        yield {name: of_text(secret) for name, secret in secrets.items()}


def main(root: Path, places: Path) -> None:
    """Everything."""
    directory = ClusterDirectory(root / "home")
    folder = SecuredFolder(root / "secured")
    folder.token("trainer", "pull:*", "push:*")
    folder.token("prometheus", "none")
    secrets = {
        f"{path.stem} token": of_text(path.read_text().strip()) for path in folder.path.glob("*.token")
    }
    secrets |= {f"{path.stem} key": of_key(path) for path in folder.path.glob("*.key")}
    secrets |= {"refused token": of_text(REFUSED)}
    for name, variable in OF_ENVIRONMENT.items():
        os.environ[variable] = f"rowloom_{6 * variable}"
        secrets[name] = of_text(os.environ[variable])
    try:
        address = up(config_of(folder, root), directory).record.address
        own = local_ray.find(directory)
        assert own is not None
        secrets["token of Ray"] = of_text(Path(own.token).read_text().strip())
        searched = Searched(directory, folder, [root / "storage", root / "gcs"])
        used(directory, folder, address, searched)
        with attached(own.address, token=own.token):
            found, looked = searched.places(secrets)
            with planted(root / "storage") as of_nobody:
                seen, _ = searched.places(of_nobody)
        places.write_text(json.dumps({"found": found, "looked": looked, "planted": seen}))
    finally:
        if (record := directory.get("ads")) is not None:
            down(record, directory)


def config_of(folder: SecuredFolder, root: Path) -> DeployConfig:
    """Of the cluster. Ray gives its servers an address that no certificate is for: they share a name."""
    return parse(
        {
            "name": "ads",
            "shards": 1,
            "launcher": "ray",
            "ray": {"address": "local", "num_cpus_per_shard": 0.1},
            "storage": str(root / "storage"),
            "durability": "process",
            "metrics": {"port": 0},
            "security": folder.section(server_name="localhost"),
            "tables": [{"name": "users", "num_embeddings": 100, "dim": 4, "initializer": "zeros"}],
        }
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
