"""Fixtures of the command line."""

import pytest
from command_line import Cli


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """`rowloom` in an empty folder. Its clusters end with the test."""
    cli = Cli(tmp_path, monkeypatch, capsys)
    yield cli
    for name in cli.directory.names():
        cli.run("down", "--name", name)
