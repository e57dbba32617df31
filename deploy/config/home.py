"""The home folder of whoever runs a command: what `~` in a path stands for."""

from __future__ import annotations

import contextlib
import os
import pwd
from pathlib import Path

from ...proto.errors import InvalidRequest


class NoHome(InvalidRequest):
    """This user has no home folder; `$HOME` says another one."""

    exit_code = 2


def home_folder() -> Path:
    """`$HOME`; where that is empty, or not set, what the password database says.

    Python takes an empty one for the root of the disk, so that `~/x` would be `/x`.

    Raises:
        NoHome: there is none, or it is no absolute path.
    """
    said = os.environ.get("HOME", "")
    if not said:
        try:
            said = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            said = ""
    if not os.path.isabs(said):
        what = f"is the relative path {said!r}" if said else f"is not set, and user {os.getuid()} has none"
        raise NoHome(f"HOME {what}: set it to a folder of this user")
    return Path(said)


def settle() -> None:
    """Set an empty `$HOME` to what it is taken for, so that other libraries and child processes do so too."""
    if os.environ.get("HOME") == "":
        with contextlib.suppress(NoHome):
            os.environ["HOME"] = str(home_folder())


def expanded(path: str | Path) -> Path:
    """A path, its `~` written out. Raises NoHome."""
    text = os.fspath(path)
    if text == "~" or text.startswith("~/"):
        return home_folder() / text[2:]
    try:
        return Path(text).expanduser()  # ~somebody
    except RuntimeError:
        raise NoHome(f"{text}: there is no user of that name") from None
