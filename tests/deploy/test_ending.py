"""Commands that a signal ends: what they have begun is removed, and the exit code says which signal it was."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from waiting import PATIENCE_S

from rowloom.client.files.array_files import NpySink
from rowloom.deploy.ending import SIGNALS, as_interrupts


@pytest.fixture(autouse=True)
def nothing_is_ignored():
    """Whoever started the tests may have them ignore a signal, as nohup does."""
    before = {one: signal.signal(one, signal.SIG_DFL) for one in SIGNALS}
    yield
    for one, handler in before.items():
        signal.signal(one, handler)


@pytest.mark.parametrize("sent", SIGNALS)
def test_an_export_that_was_ended_by_a_signal_left_half_a_file(cli, ads, monkeypatch, sent):
    (cli.folder / "old.npy").write_bytes(b"old")
    before = sorted(p.name for p in cli.folder.iterdir())

    def end(sink, ids, rows):
        assert sorted(p.name for p in cli.folder.iterdir()) != before
        os.kill(os.getpid(), sent)

    with monkeypatch.context() as patch:
        patch.setattr(NpySink, "write", end)
        for arguments in (["users.npy"], ["old.npy", "--overwrite"]):
            _, err = cli.run("export", "users", *arguments, code=128 + sent)
            assert err.endswith("rowloom: interrupted\n")
    assert sorted(p.name for p in cli.folder.iterdir()) == before
    assert (cli.folder / "old.npy").read_bytes() == b"old"
    assert cli.json("export", "users", "users.npy")["rows"] == 1000


def test_a_table_of_an_import_that_was_ended_by_a_signal_stayed_half_full(cli, ads, monkeypatch):
    cli.run("export", "users", "users.npy")
    with monkeypatch.context() as patch:
        patch.setattr(
            "rowloom.client.files.filling.as_float32", lambda *_: os.kill(os.getpid(), signal.SIGTERM)
        )
        cli.run("import", "users.npy", "again", "--create", code=143)
    assert [table["name"] for table in cli.json("tables")["tables"]] == ["users"]


@pytest.mark.parametrize(
    ("ended", "command", "words"),
    [
        (
            "operate.remote.Remote.scale",
            ["scale", "3"],
            "the cluster goes on alone; `rowloom scale 3` again waits",
        ),
        (
            "operate.applying.apply",
            ["apply"],
            "what was begun goes on; `rowloom apply deploy.yaml` again does the rest",
        ),
        (
            "operate.remote.Remote.take_snapshot",
            ["snapshot"],
            "`rowloom snapshots` lists it when it is whole",
        ),
        ("operate.clusters.down", ["down"], "some of it may run still; `rowloom down` again ends it"),
        ("operate.remote.Remote.accept_loss", ["recover", "--accept-loss", "0"], "`rowloom status` tells"),
        ("importing.import_file", ["import", "x.npy", "users"], "some rows of x.npy may be in table 'users'"),
        ("importing.import_file", ["import", "x.npy", "new", "--create"], "table 'new' was dropped again"),
    ],
)
def test_ctrl_c_did_not_say_what_goes_on_or_is_left(cli, ads, monkeypatch, ended, command, words):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(f"rowloom.deploy.{ended}", interrupt)
        _, err = cli.run(*command, code=130)
    assert "rowloom: interrupted: " in err
    assert words in err


def test_a_process_that_sigterm_ends_says_so_by_its_exit_code(cli, ads):
    command = [sys.executable, "-m", "rowloom.deploy.cli", "status", "--watch", "--json"]
    watching = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert watching.stdout is not None
    assert watching.stdout.readline()
    watching.send_signal(signal.SIGTERM)
    _, err = watching.communicate(timeout=PATIENCE_S)
    assert (watching.returncode, err.strip()) == (143, "rowloom: interrupted")


def test_a_second_signal_does_not_end_the_clearing_up():
    # GNU timeout sends two.
    cleared = []

    def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGHUP)
            cleared.append(True)
            sys.exit(130)

    with pytest.raises(SystemExit) as ended, as_interrupts():
        command()
    assert cleared
    assert ended.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_ctrl_c_and_what_nohup_ignores_stay_as_they_were():
    def command() -> None:
        os.kill(os.getpid(), signal.SIGHUP)
        sys.exit(130)

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with pytest.raises(SystemExit) as ended, as_interrupts():
        command()
    assert ended.value.code == 130
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def check_interrupted(code: str) -> None:
    """A program that Ctrl-C ends does so with one line."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "rowloom: interrupted\n")


def test_ctrl_c_while_the_command_is_imported_showed_a_traceback():
    code = (
        "import os, signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)  # a run in the background ignores it\n"
        "class Slow:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'typer':\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Slow())\n"
        "from rowloom.deploy.operate.command import main\n"
        "main()\n"
    )
    check_interrupted(code)


def test_the_command_that_is_installed_begins_before_its_imports():
    # In the 20 ms that `typing` and `threading` take, Ctrl-C showed a traceback.
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    code = (
        "import sys; before = set(sys.modules)\n"
        "import rowloom.deploy.operate.command\n"
        "print(*sorted({'typer', 'typing', 'threading', 'contextlib', 'importlib'} & (set(sys.modules) - before)))"
    )
    assert 'rowloom = "rowloom.deploy.operate.command:main"' in project
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, timeout=PATIENCE_S, capture_output=True, text=True
    )
    assert done.stdout.strip() == ""


def test_ctrl_c_before_the_command_heeds_it_by_itself_showed_a_traceback():
    code = (
        "import rowloom.deploy.cli as cli\n"
        "def main():\n"
        "    raise KeyboardInterrupt\n"
        "cli.main = main\n"
        "from rowloom.deploy.operate.command import main\n"
        "main()\n"
    )
    check_interrupted(code)
