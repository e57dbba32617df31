"""OpenEmbedding 0.1.2: its C++ client and servers, by the C functions of the library in its source archive."""

import ctypes
import os
import subprocess
import sys
import tarfile
import threading
from ctypes import c_bool, c_char_p, c_int, c_int64, c_size_t, c_uint64, c_void_p
from pathlib import Path

import numpy as np

from rowloom.client import InvalidRequest
from rowloom.deploy.bench.rival import Rival
from rowloom.deploy.launch.processes import end_with_stdin, python

VERSION = "0.1.2"
MEMBER = f"openembedding-{VERSION}/openembedding/libcexb_pack.so"
HOST = b"127.0.0.1"
ENDPOINT_BYTES = 128

# What each function returns, and what it takes.
FUNCTIONS = {
    "exb_connect": (c_void_p, c_char_p, c_char_p, c_char_p),
    "exb_master_start": (c_void_p, c_char_p),
    "exb_master_endpoint": (None, c_void_p, c_char_p),
    "exb_server_start": (c_void_p, c_void_p),
    "exb_server_join": (None, c_void_p),
    "exb_context_initialize": (c_void_p, c_void_p, c_int, c_int),
    "exb_create_storage": (c_void_p, c_void_p, c_int),
    "exb_create_variable": (c_void_p, c_void_p, c_uint64, c_size_t, c_char_p),
    "exb_create_initializer": (c_void_p, c_char_p),
    "exb_set_initializer_property": (None, c_void_p, c_char_p, c_char_p),
    "exb_set_initializer": (None, c_void_p, c_void_p),
    "exb_create_optimizer": (c_void_p, c_char_p),
    "exb_set_optimizer_property": (None, c_void_p, c_char_p, c_char_p),
    "exb_set_optimizer": (None, c_void_p, c_void_p),
    "exb_pull_weights": (c_void_p, c_void_p, c_void_p, c_size_t, c_int64),
    "exb_pull_wait": (c_bool, c_void_p, c_void_p, c_size_t, c_void_p),
    "exb_push_gradients": (c_void_p, c_void_p, c_void_p, c_size_t, c_void_p),
    "exb_update_weights": (c_void_p, c_void_p),
    "exb_wait": (c_bool, c_void_p),
    "exb_last_error": (c_char_p,),
}


class OpenEmbedding(Rival):
    """A dense variable over all servers; the client takes duplicates out and sums their gradients itself.

    A push sends gradients and asks for the update. As its own TensorFlow operators do, it does not wait until the
    update is through; the next pull or update does.
    """

    name = "openembedding"
    version = VERSION

    def _start(self) -> None:
        path = library()
        self._lib = lib = load(path)
        master = lib.exb_master_start(HOST)
        endpoint = ctypes.create_string_buffer(ENDPOINT_BYTES)
        lib.exb_master_endpoint(master, endpoint)
        command = python(__file__, str(path), endpoint.value.decode())
        for server in [self._serve(command) for _ in range(self.servers)]:
            server.first_line()
        context = lib.exb_context_initialize(lib.exb_connect(b"", endpoint.value, HOST), 1, self.servers)
        self._storage = lib.exb_create_storage(context, -1)
        self._variable = lib.exb_create_variable(self._storage, self.rows, self.dim, b"float32")
        initializer = lib.exb_create_initializer(b"constant")
        lib.exb_set_initializer_property(initializer, b"value", b"1.0")
        lib.exb_set_initializer(self._variable, initializer)
        optimizer = lib.exb_create_optimizer(b"adagrad")
        lib.exb_set_optimizer_property(optimizer, b"learning_rate", b"0.05")
        lib.exb_set_optimizer(self._variable, optimizer)
        self._updates = 0

    def pull(self, ids: np.ndarray) -> np.ndarray:
        rows = np.empty((len(ids), self.dim), np.float32)
        at, n = ids.ctypes.data, len(ids)
        waiter = self._lib.exb_pull_weights(self._variable, at, n, self._updates)
        self._check(self._lib.exb_pull_wait(waiter, at, n, rows.ctypes.data))
        return rows

    def push(self, ids: np.ndarray, grads: np.ndarray) -> None:
        lib = self._lib
        waiter = lib.exb_push_gradients(self._variable, ids.ctypes.data, len(ids), grads.ctypes.data)
        self._check(lib.exb_wait(waiter))
        self._check(lib.exb_wait(lib.exb_update_weights(self._storage)))
        self._updates += 1

    def _check(self, fine: bool) -> None:
        if not fine:
            raise RuntimeError(f"openembedding: {self._lib.exb_last_error().decode()}")


def library(folder: Path | None = None) -> Path:
    """The shared library, fetched from the package index once. Raises InvalidRequest if that cannot be done."""
    folder = folder or Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rowloom-bench"
    path = folder / f"libcexb_pack-{VERSION}.so"
    if not path.exists():
        archive = folder / f"openembedding-{VERSION}.tar.gz"
        if not archive.exists():
            _download(folder)
        with tarfile.open(archive) as opened:
            member = opened.extractfile(MEMBER)
            assert member is not None
            part = path.with_suffix(".part")
            part.write_bytes(member.read())
        part.rename(path)
    return path


def _download(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    options = ("--no-deps", "--no-binary", ":all:", "--dest", str(folder))
    command = python("-m", "pip", "download", "-q", *options, f"openembedding=={VERSION}")
    done = subprocess.run(command, capture_output=True, text=True)
    # Its setup asks for pybind11 and TensorFlow only after the archive has arrived.
    if not (folder / f"openembedding-{VERSION}.tar.gz").exists():
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InvalidRequest(f"pip download openembedding=={VERSION}: {last}")


def load(path: Path) -> ctypes.CDLL:
    """The library with its functions declared. Raises InvalidRequest if it is not made for this machine."""
    os.environ["GLOG_minloglevel"] = "2"  # noqa: SIM112  # its name
    try:
        lib = ctypes.CDLL(str(path))
    except OSError as e:
        raise InvalidRequest(f"openembedding's library does not load here: {e}") from e
    for name, (returns, *takes) in FUNCTIONS.items():
        function = getattr(lib, name)
        function.restype, function.argtypes = returns, takes
    return lib


def main() -> None:
    """One server, until stdin closes: `openembedding.py LIBRARY ENDPOINT`."""
    lib = load(Path(sys.argv[1]))
    server = lib.exb_server_start(lib.exb_connect(b"", sys.argv[2].encode(), HOST))
    threading.Thread(target=lib.exb_server_join, args=(server,), daemon=True).start()
    sys.stdout.write("up\n")
    sys.stdout.flush()
    end_with_stdin()


if __name__ == "__main__":
    main()
