"""What `~` stands for, where $HOME says nothing useful."""

import os
import pwd
from pathlib import Path

import pytest

from rowloom.deploy.config.config import load
from rowloom.deploy.config.home import NoHome, expanded, home_folder, settle
from rowloom.deploy.operate.directory import BadHome, ClusterDirectory


def test_an_empty_home_was_the_root_of_the_disk(monkeypatch, tmp_path):
    own = Path(pwd.getpwuid(os.getuid()).pw_dir)
    monkeypatch.delenv("ROWLOOM_HOME", raising=False)
    monkeypatch.setenv("HOME", "")
    assert ClusterDirectory().home == own / ".rowloom"
    (tmp_path / "deploy.yaml").write_text("storage: ~/rows\nsecurity: {tokens: ~/t, token: ~/u}\n")
    config = load(tmp_path / "deploy.yaml")
    assert (config.storage, config.security.tokens) == (str(own / "rows"), str(own / "t"))
    settle()
    assert os.environ["HOME"] == str(own)  # as child processes and other libraries read it


def test_a_home_that_is_given_is_taken(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/x") == tmp_path / "x"
    assert expanded("~") == tmp_path
    assert expanded("~root/x") == Path("~root/x").expanduser()
    assert expanded("x/~") == Path("x/~")


def test_a_home_that_is_none_is_refused_with_what_to_set(monkeypatch):
    monkeypatch.setenv("HOME", "here")
    with pytest.raises(NoHome, match="HOME is the relative path 'here': set it to a folder of this user"):
        home_folder()
    with pytest.raises(NoHome, match="~nobody-is-called-so/x: there is no user of that name"):
        expanded("~nobody-is-called-so/x")
    monkeypatch.delenv("ROWLOOM_HOME", raising=False)
    with pytest.raises(BadHome, match=r"HOME is the relative path.*--home FOLDER or \$ROWLOOM_HOME"):
        ClusterDirectory()
