"""Redis: rows as strings, pulled by MGET; it has no gradient to apply, so it pulls only."""

import shutil
import subprocess
import sys
import time

import numpy as np

from rowloom.client import InvalidRequest
from rowloom.deploy.bench.rival import Rival
from rowloom.deploy.launch.processes import python

FILL_ROWS = 16_384
KEY_BYTES = 8
PATIENCE_S = 10.0


class RedisPull(Rival):
    """One redis-server for each server, ids split by `mod`, duplicates taken out, replies parsed by hiredis.

    Both servers are asked before either is read, on one connection each.
    """

    name = "redis"
    ops = ("pull",)
    takes_crews = True
    keeps = 2  # it adds about a row's bytes of 64 columns in keys and bookkeeping

    def _start(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            raise InvalidRequest("redis-server is not installed here: apt-get install redis-server")
        try:
            import hiredis  # noqa: F401  # redis uses it where it is
            import redis
        except ImportError as e:
            raise InvalidRequest(
                "redis and hiredis are not installed here: pip install 'rowloom[bench]'"
            ) from e
        ports = self.crew.ports[: self.servers]
        if self.crew.rank == 0:
            runners = [self._serve(python(__file__, program, str(port))) for port in ports]
            self._pids = [int(runner.first_line()) for runner in runners]
        clients = [redis.Redis(port=port) for port in ports]
        self._connections = [_connected(client) for client in clients]
        for client in clients:
            self._stack.callback(client.close)
        self.version = clients[0].info("server")["redis_version"]
        if self.crew.rank == 0:
            self._fill(clients)

    def _fill(self, clients: list) -> None:
        row = np.ones(self.dim, np.float32).tobytes()
        for begin in range(0, self.rows, FILL_ROWS):
            ids = np.arange(begin, min(begin + FILL_ROWS, self.rows))
            for s, client in enumerate(clients):
                if mine := _keys(ids[ids % self.servers == s]):
                    client.mset(dict.fromkeys(mine, row))

    def pull(self, ids: np.ndarray) -> np.ndarray:
        distinct, inverse = np.unique(ids, return_inverse=True)
        shard = distinct % self.servers
        mine = [np.flatnonzero(shard == s) for s in range(self.servers)]
        asked = [pair for pair in zip(self._connections, mine, strict=True) if len(pair[1])]
        for connection, places in asked:
            connection.send_packed_command(connection.pack_command("MGET", *_keys(distinct[places])))
        rows = np.empty((len(distinct), self.dim), np.float32)
        for connection, places in asked:
            values = b"".join(connection.read_response())
            rows[places] = np.frombuffer(values, np.float32).reshape(-1, self.dim)
        return rows.take(inverse, axis=0, mode="clip")


def _keys(ids: np.ndarray) -> list[bytes]:
    raw = ids.tobytes()
    return [raw[i : i + KEY_BYTES] for i in range(0, len(raw), KEY_BYTES)]


def _connected(client):
    """A connection of a client whose server is about to listen."""
    import redis

    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            client.ping()
            return client.connection_pool.get_connection()
        except redis.exceptions.ConnectionError:
            if time.monotonic() > until:
                raise
            time.sleep(0.05)


def main() -> None:
    """One redis-server, without files, until stdin closes: `redis_pull.py PROGRAM PORT`. Prints its process id."""
    program, port = sys.argv[1:]
    options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning"]
    server = subprocess.Popen(
        [program, "--port", port, *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()
    sys.stdin.read()
    server.kill()
    server.wait()


if __name__ == "__main__":
    main()
