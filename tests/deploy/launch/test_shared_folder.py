"""A folder that two machines share, or do not."""

import fcntl

import pytest

from rowloom.deploy.launch.shared_folder import Token, check_token, token_in
from rowloom.proto.errors import Unavailable


def test_a_folder_that_is_shared_is_taken_and_left_as_it_was(tmp_path) -> None:
    with token_in(str(tmp_path / "logs")) as token:
        check_token(token, "n")
    assert list((tmp_path / "logs").iterdir()) == []


def test_a_folder_of_the_same_name_on_another_machine_is_refused_with_the_reason(tmp_path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "other").write_text("of an earlier cluster")
    for name in ("missing", "other"):
        with pytest.raises(Unavailable, match="node n does not see what the coordinator has written"):
            check_token(Token(str(tmp_path / "logs" / name), "text"), "n")


def test_a_folder_whose_locks_hold_on_one_machine_only_is_refused(tmp_path, monkeypatch) -> None:
    with token_in(str(tmp_path)) as token:
        monkeypatch.setattr(fcntl, "flock", lambda handle, how: None)  # as on a mount without locks
        with pytest.raises(Unavailable, match="but not its locks"):
            check_token(token, "n")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path) -> None:
    (tmp_path / "logs").write_text("a file")
    with (
        pytest.raises(
            Unavailable, match=r"logs cannot be kept in .*/logs is a file, and a folder is wanted$"
        ),
        token_in(str(tmp_path / "logs")),
    ):
        pass
