"""Exit codes: of each command, as the table in the manual has them."""

import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from waiting import until

from rowloom.client import connect

ADS = """
name: ads
shards: 2
storage: kept
durability: memory
tables:
  - {name: users, num_embeddings: 1000, dim: 4, optimizer: {adagrad: {lr: 0.05}}, initializer: zeros}
"""


@pytest.fixture
def ads(cli):
    cli.write(ADS)
    address = cli.json("up")["address"]
    with connect(address) as client:
        client.table("users").push(np.arange(1000), np.ones((1000, 4), np.float32))
    return address


def commands() -> dict[str, object]:
    from rowloom.deploy.cli import app

    groups = [("", app), *((f"{group.name} ", group.typer_instance) for group in app.registered_groups)]
    return {
        above + (c.name or c.callback.__name__): c.callback
        for above, group in groups
        for c in group.registered_commands
    }


def test_every_command_prints_json():
    assert {"secure init", "render k8s", "up"} <= set(commands())
    assert {
        name for name, command in commands().items() if "as_json" not in inspect.signature(command).parameters
    } == set()


def test_a_named_snapshot_that_is_not_there_or_is_damaged_was_no_wrong_use(cli, ads):
    url = cli.json("snapshot")["url"]
    for name in ("manifest", "block"):
        shutil.copytree(url, cli.folder / name)
    os.truncate(cli.folder / "manifest/MANIFEST.json", 100)
    block = next((cli.folder / "block").rglob("*.rows-*"))
    data = bytearray(block.read_bytes())
    data[-3] ^= 1
    block.write_bytes(data)
    (cli.folder / "two.yaml").write_text("name: two\nstorage: two\n")
    (cli.folder / "empty").mkdir()
    (cli.folder / "file.txt").write_text("")
    for *command, code, words in (
        ("snapshots", "nope", 2, "nope does not exist"),
        ("snapshots", "file.txt", 2, "file.txt is a file, and a folder is wanted"),
        ("snapshots", "foo://x", 2, "cannot be used"),
        ("verify", "nope", 2, "nope does not exist"),
        ("verify", "file.txt", 2, "file.txt is a file, and a folder is wanted"),
        (
            "verify",
            "empty",
            2,
            "there is no snapshot, or it was never finished; `rowloom snapshots FOLDER` lists",
        ),
        ("verify", "foo://x", 2, "cannot be used"),
        ("verify", "manifest", 1, "MANIFEST.json is damaged"),  # what it was asked for
        ("verify", "block", 1, "is damaged: block 0"),
        ("diff", url, "nope", 2, "nope does not exist"),
        ("diff", url, "manifest", 2, "MANIFEST.json is damaged"),  # 1 means that they differ
        ("diff", url, "block", 2, "is damaged: block 0"),
        ("restore", "nope", "two.yaml", 2, "nope does not exist"),
        ("restore", "manifest", "two.yaml", 2, "The newest beside it that has all its files is "),
        ("restore", "block", "two.yaml", 2, "is damaged: block 0"),  # found by a shard
        ("restore", url, "none.yaml", 2, "cannot read the deploy config"),
        ("restore", url, "deploy.yaml", 1, "runs already"),
        ("restore", url, "two.yaml", "--until", "2h", 1, "is not after snapshot"),
    ):
        _, err = cli.run(*command, code=code)
        assert words in err, command
        assert err.startswith("rowloom: "), command
    assert cli.directory.names() == ["ads"]


def test_a_file_that_cannot_be_read_as_what_it_is_was_no_wrong_use(cli, ads):
    (cli.folder / "bad.npy").write_bytes(b"garbage")
    (cli.folder / "bad.safetensors").write_bytes(b"garbage")
    (cli.folder / "bad.txt").write_text("hi\n")
    (cli.folder / "wide.txt").write_bytes("a 1 2 3 4\n".encode("utf-16"))
    (cli.folder / "folder").mkdir()
    np.save(cli.folder / "narrow.npy", np.ones((1000, 3), np.float32))
    for *command, code, words in (
        ("import", "bad.npy", "users", 2, "bad.npy is damaged or no .npy file: it begins with"),
        ("import", "bad.safetensors", "users", 2, "is cut short or no safetensors file"),
        ("import", "bad.txt", "users", 2, "not a word and its numbers"),
        ("import", "wide.txt", "users", 2, "is UTF-16: save it as UTF-8"),
        ("import", "folder", "users", 2, "folder without a TensorFlow checkpoint"),
        ("import", ".", "users", 2, ". is a folder without a TensorFlow checkpoint"),
        ("import", "", "users", 2, "PATH is empty, got ''"),
        ("import", "deploy.yaml", "users", 2, "cannot tell the format of deploy.yaml"),  # it was 1
        ("export", "users", "x.foo", 2, "cannot tell the format of x.foo"),
        # It said that it cannot tell the format.
        ("export", "users", "new/", 2, "new/ is a folder: name a file in it, such as new/rows.npy"),
        ("export", "users", "folder", 2, "folder is a folder: name a file in it, such as folder/rows.npy"),
        # It was done, and nothing was there afterwards.
        (
            "export",
            "users",
            "memory://x.npy",
            2,
            "memory://x.npy is memory of this process: nothing is there",
        ),
        ("import", "memory://x.npy", "users", 2, "a URL such as s3://bucket/folder, stays"),
        ("export", "users", "x.npy", "--ids=memory://i.npy", 2, "is memory of this process"),
        ("snapshots", "memory://x", 2, "memory://x is memory of this process"),
        ("restore", "memory://x/y", 2, "memory://x/y is memory of this process"),
        ("verify", "memory://x/y", 2, "memory://x/y is memory of this process"),
        ("diff", "simplecache::memory://x/y", "memory://z", 2, "simplecache::memory://x/y is memory of this"),
        ("export", "users", "folder", "--format", "npy", "--overwrite", 2, "folder is a folder: name a file"),
        ("export", "users", "/", "--format", "npy", "--overwrite", 2, "/ is a folder: name a file in it"),
        ("import", "foo://x.npy", "users", 2, "cannot be used"),
        ("import", "narrow.npy", "users", 1, "narrow.npy"),  # it does not fit the table
        ("export", "users", "foo://x.npy", 2, "cannot be used"),
        ("export", "users", "x.npy", "--ids", "bad.txt", 2, "must hold integers"),
        ("export", "users", "x.vec", "--vocabulary", "wide.txt", 2, "is no UTF-8"),
        ("logs", "--name", "nope", 4, "no cluster 'nope' is known"),  # it was 2
        ("demo", "--launcher", "embedded", "--corpus", "nope", 2, "there is no file or folder 'nope'"),
        ("demo", "--launcher", "embedded", "--corpus", "folder", 2, "give more text"),
    ):
        _, err = cli.run(*command, code=code)
        assert words in err, command


def test_a_name_or_an_address_that_is_none(cli):
    for *command, code, words in (
        (
            "down",
            "--forget",
            "--name",
            "nope",
            4,
            "no cluster 'nope' is known",
        ),  # it was said to be forgotten
        ("down", "--forget", 4, "no cluster is known here"),
        (
            "status",
            "--address",
            "nonsense",
            2,
            "--address must be host:port, as 127.0.0.1:7400, got 'nonsense'",
        ),
        ("status", "--address", "host:0", 2, "--address must be host:port"),
        # The token was in the error, and in whatever keeps what programs say.
        (
            "status",
            "--address",
            "me:s3cret@h:7400",
            2,
            "got '...@h:7400': a token is shown by ROWLOOM_TOKEN_FILE",
        ),
        (
            "status",
            "--address",
            "http://h:7400",
            2,
            "must be host:port, as h:7400, got 'http://h:7400': leave its protocol out",
        ),
        ("bench", "--address", "127.0.0.1", 2, "--address must be host:port"),
        ("status", "--address", "127.0.0.1:9", 5, "does not answer"),
    ):
        assert words in cli.run(*command, code=code)[1], command


@pytest.mark.parametrize(
    "command",
    [
        ["status"],
        ["tables"],
        ["scale", "2"],
        ["drain", "10.0.0.1"],
        ["undrain", "10.0.0.1"],
        ["set-lr", "users", "1"],
        ["drop", "users", "--yes"],
        ["inspect", "users", "1"],
        ["verify"],
        ["import", "x.npy", "users"],
        ["export", "users", "x.npy"],
        ["recover"],
        ["snapshot"],
        ["snapshots"],
        ["apply"],
        ["down"],
        ["up", "--name", "ads"],
        ["top"],
        ["hot", "users"],
        ["logs"],
        ["metrics"],
    ],
)
def test_without_a_cluster_each_command_that_needs_one_ends_with_4(cli, command):
    cli.write(ADS)
    assert "known" in cli.run(*command, code=4)[1]
    assert cli.run(*command, "--nonsense", code=2)[0] == ""


def test_commands_that_need_no_cluster_end_with_0(cli):
    cli.write(ADS)
    for command in (["list"], ["plan"], ["schema"], ["doctor"]):
        cli.json(*command)


def test_a_dead_shard_ends_with_3_whatever_needs_it(cli, ads):
    url = cli.json("snapshot")["url"]
    os.kill(cli.json("status")["shards"][1]["pid"], signal.SIGKILL)
    until(lambda: cli.attempt("status")[2] == 3, seconds=30.0)
    np.save(cli.folder / "users.npy", np.ones((1000, 4), np.float32))
    for command in (
        ["up"],
        ["status"],
        ["tables"],
        ["plan"],
        ["apply"],
        ["scale", "3"],
        ["set-lr", "users", "1"],
        ["drop", "users", "--yes"],
        ["inspect", "users", "6", "7"],
        ["verify"],
        ["import", "users.npy", "users"],
        ["export", "users", "x.npy"],
        ["snapshot"],
    ):
        out, err = cli.run(*command, code=3)
        assert "shard 1 at 127.0.0.1:" in err, command
        assert "last error" not in out + err, command  # what gRPC says, where it says more than people need
    found = json.loads(cli.attempt("verify", "--json")[0])
    assert [(f["kind"], f["shard"]) for f in found["faults"]] == [("no answer", 1)]
    cli.run("doctor", code=1)
    cli.run("recover", code=2)
    # A script that tidied up took the rows of the other shard with it.
    assert "holds 500 rows in 1 table (shard 1 is dead), and they are lost" in cli.run("down", code=2)[1]
    assert (
        "`rowloom export TABLE FILE --partial` keeps rows" in cli.run("down", code=2)[1]
    )  # without, it is refused
    cli.json("verify", url)
    cli.json("snapshots")
    cli.json("inspect", "users", "6")
    _, err = cli.run("hot", "users", code=3)
    assert "shard 1 at 127.0.0.1:" in err


def test_the_manual_and_the_help_have_the_same_exit_codes():
    from rowloom.deploy.cli import app

    manual = (Path(__file__).parents[2] / "docs/operate.md").read_text().partition("## Exit codes")[2]
    listed = re.findall(r"^\| (\d+) \|", manual.partition("\n## ")[0], re.MULTILINE)
    assert listed == re.findall(r"^  (\d+) ", app.info.help, re.MULTILINE)


def test_shells_complete_commands_and_the_names_of_clusters(cli, tmp_path, monkeypatch):
    cli.write("name: ads\n")
    cli.run("up")

    def completed(words: str, at: int) -> list[str]:
        env = os.environ | {"_ROWLOOM_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(at)}
        command = [sys.executable, "-c", "from rowloom.deploy.cli import app; app(prog_name='rowloom')"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
        return done.stdout.split()

    assert completed("rowloom ins", 1) == ["inspect"]
    assert completed("rowloom status --name a", 3) == ["ads"]
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # this runs in no shell
    command = [sys.executable, "-m", "rowloom.deploy.cli", "--install-completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "source" in (tmp_path / ".bashrc").read_text()
