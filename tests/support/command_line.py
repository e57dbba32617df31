"""The command `rowloom` as its users have it: output, errors, exit code, a home of its own."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rowloom.deploy.cli import main
from rowloom.deploy.operate.directory import ClusterDirectory


class Cli:
    """Runs `rowloom` with a home of its own in an empty folder; in this process, because that is quick."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
        self.folder = folder
        self.stays = ""  # the cluster that other tests go on to use
        self._patch, self._capsys = patch, capsys
        self.at_home(folder / "home")
        patch.setenv("COLUMNS", "200")
        patch.chdir(folder)

    def at_home(self, home: Path) -> None:
        """Use another home."""
        self.directory = ClusterDirectory(home)
        self._patch.setenv("ROWLOOM_HOME", str(home))

    def run(self, *arguments: str, code: int = 0) -> tuple[str, str]:
        """(stdout, stderr) of a command that must end with `code`."""
        out, err, ended = self.attempt(*arguments)
        assert ended == code, f"{arguments}: {out}{err}"
        return out, err

    def attempt(self, *arguments: str) -> tuple[str, str, int]:
        """(stdout, stderr, exit code)."""
        self._patch.setattr(sys, "argv", ["rowloom", *arguments])
        self._capsys.readouterr()
        ended = 0
        try:
            main()
        except SystemExit as e:
            ended = e.code or 0
        return *self._capsys.readouterr(), ended

    def process(self, *arguments: str) -> str:
        """stdout of a command in a process of its own, which must succeed."""
        command = [sys.executable, "-m", "rowloom.deploy.cli", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def json(self, *arguments: str) -> dict:
        """What a command prints with --json: one object, and nothing beside it."""
        out, err = self.run(*arguments, "--json")
        assert (err, out.count("\n")) == ("", 1)
        return json.loads(out)

    def write(self, text: str) -> None:
        (self.folder / "deploy.yaml").write_text(text)


def interruptible(command: list[str]) -> subprocess.Popen[str]:
    """Start a command that hears SIGINT, also where these tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    finally:
        signal.signal(signal.SIGINT, before)
