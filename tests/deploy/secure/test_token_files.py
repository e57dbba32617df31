"""The file of tokens when something fails half-way: nobody loses the token that is in use."""

import os

import pytest

from rowloom.deploy.secure import private_files
from rowloom.deploy.secure.token_files import add_token
from rowloom.proto.errors import InvalidRequest
from rowloom.server.access.tokens import Access

TOO_FULL = OSError(28, "No space left on device")


@pytest.fixture
def known(tmp_path):
    """A file in which `ann` has as many tokens as may count, and the older one of them."""
    file = tmp_path / "tokens.yaml"
    add_token(file, "ann", ["pull:*"], tmp_path / "in-use.token")
    add_token(file, "ann", [], tmp_path / "newer.token")
    return file, (tmp_path / "in-use.token").read_text().strip()


@pytest.mark.parametrize("out", ["missing/ann.token", "folder"])
def test_a_token_that_could_not_be_written_took_the_one_in_use_away(known, tmp_path, out):
    file, token = known
    (tmp_path / "folder").mkdir()
    before = file.read_bytes(), sorted(os.listdir(tmp_path))
    with pytest.raises(InvalidRequest, match=f"{tmp_path / out} cannot be written"):
        add_token(file, "ann", [], tmp_path / out)
    assert (file.read_bytes(), sorted(os.listdir(tmp_path))) == before
    assert Access(str(file)).identify(token).name == "ann"


def test_a_disk_that_is_full_takes_no_token_away_and_gives_none(known, tmp_path, monkeypatch):
    file, token = known
    before = file.read_bytes(), sorted(os.listdir(tmp_path))
    synced = []

    def fsync(handle):
        synced.append(handle)
        if len(synced) == 2:  # the first file is that of the token, the second that of all
            raise TOO_FULL

    monkeypatch.setattr(private_files.os, "fsync", fsync)
    with pytest.raises(InvalidRequest, match=r"tokens.yaml cannot be written: No space left"):
        add_token(file, "ann", [], tmp_path / "another.token")
    assert (file.read_bytes(), sorted(os.listdir(tmp_path))) == before
    assert Access(str(file)).identify(token).name == "ann"
