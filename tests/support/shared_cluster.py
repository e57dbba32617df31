"""A cluster that tests use one after the other, because a start takes longer than what most of them do with it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from command_line import Cli

from rowloom.client import Client, connect
from rowloom.deploy.config.config import parse
from rowloom.deploy.config.yaml_text import YamlText
from rowloom.deploy.operate.clusters import down
from rowloom.deploy.operate.directory import ClusterDirectory


class SharedCluster:
    """Of a config with two shards and a table `users` of 1,000 rows of 4 numbers. Each test has it as new.

    It is started again for a test if one before it has changed more than tables. Its counters go on.
    """

    def __init__(self, home: Path, config: str) -> None:
        self._home, self._config = home, config
        self._processes: list[int] = []

    def as_new(self, cli: Cli) -> str:
        """For a test: `cli` knows it, and a deploy.yaml of it. Returns its address."""
        cli.at_home(self._home)
        cli.write(self._config)
        address = self._mended(cli) or self._started(cli)
        with connect(address) as client:
            client.table("users").push(np.arange(1000), np.ones((1000, 4), np.float32))
        cli.stays = "ads"
        return address

    def _mended(self, cli: Cli) -> str:
        """The address of what a test has left, with tables as new; empty if that is not possible."""
        out, _, code = cli.attempt("status", "--json")
        if code or _processes(json.loads(out)) != self._processes:
            return ""
        address = cli.directory.get("ads").address
        with connect(address) as client:
            self._make_tables(client)
        out, _, code = cli.attempt("plan", "--json")
        return address if not code and json.loads(out)["changes"] == [] else ""

    def _make_tables(self, client: Client) -> None:
        for name in [table.name for table in client.tables()]:
            client.drop_table(name)
        for spec in parse(YamlText(self._config, "deploy.yaml").value).tables:
            client.create_table(spec)

    def _started(self, cli: Cli) -> str:
        for name in cli.directory.names():
            cli.run("down", "--name", name, "--yes")
        address = cli.json("up", "deploy.yaml")["address"]
        self._processes = _processes(cli.json("status"))
        return address

    def close(self) -> None:
        """End it."""
        directory = ClusterDirectory(self._home)
        for name in directory.names():
            down(directory.get(name), directory)


def _processes(state: dict[str, Any]) -> list[int]:
    return [state["epoch"], *(shard["pid"] for shard in state["shards"])]
