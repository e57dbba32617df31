"""Lines of what happens to a process, for people and for programs: time, level, process, place, message.

    time=2026-11-28T10:32:20.123Z level=warning process=shard-0 place=serve:412 message="what happened"

What is logged names tables, shards, files and addresses; never a row's id, a value, or a secret.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from logging.handlers import RotatingFileHandler
from typing import Literal

LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("logfmt", "json")
FILE_BYTES = 16 << 20  # of a file, until the next one is begun
OLDER_FILES = 3  # that are kept, as NAME.1 to NAME.3
# Ours, whatever they are called in a process that was started as `python -m`. Libraries only say what is wrong.
OURS = ("rowloom", "__main__")
_PLAIN = re.compile(r"[^\s\"=\\]+")


class LineFormatter(logging.Formatter):
    """One line for each record, a traceback included.

    Args:
        process: a name for it, as shard-0; may be changed.
        format: logfmt, or json: an object a line.
    """

    def __init__(self, process: str, format: str) -> None:
        super().__init__()
        self.process, self._json = process, format == "json"

    def format(self, record: logging.LogRecord) -> str:
        """A record as a line."""
        fields = {
            "time": stamp(record.created, record.msecs),
            "level": record.levelname.lower(),
            "process": self.process,
            "place": f"{record.module}:{record.lineno}",
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        if self._json:
            return json.dumps(fields)
        return " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())


def stamp(seconds: float, msecs: float = 0.0) -> str:
    """A time as lines have it: those that are later are so in the order of letters too."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{msecs:03.0f}Z"


def _quoted(value: str) -> str:
    return value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)


def begin_log(
    process: str, *, level: str = "info", format: Literal["logfmt", "json"] | str = "logfmt", file: str = ""
) -> str:
    """From now on this process logs so.

    Args:
        process: a name for it.
        level: one of LEVELS, from which on records are kept.
        format: one of FORMATS.
        file: that they are added to; it is put aside as it grows. None, or one that cannot be written: stderr.

    Returns:
        The file, or the one that stderr is; empty: it is none.
    """
    handler: logging.Handler = logging.StreamHandler()
    failed = ""
    if file:
        try:
            os.makedirs(os.path.dirname(file) or ".", exist_ok=True)
            handler = RotatingFileHandler(
                file, maxBytes=FILE_BYTES, backupCount=OLDER_FILES, encoding="utf-8"
            )
        except OSError as e:  # a full disk must not keep a shard from serving
            file, failed = "", f"{file}: {e.strerror or e}"
    handler.setFormatter(LineFormatter(process, format))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in OURS:
        logging.getLogger(name).setLevel(level.upper())
    if failed:
        logging.getLogger(__name__).error("the log goes to stderr: %s", failed)
    return file or _file_of_stderr()


def name_process(name: str) -> None:
    """From now on lines of this process have this name, as it has become a shard; nothing where no log was begun."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, LineFormatter):
            handler.formatter.process = name


def _file_of_stderr() -> str:
    try:
        path = os.readlink(f"/proc/self/fd/{sys.stderr.fileno()}")
    except (OSError, ValueError, AttributeError):  # no /proc, or no stderr
        return ""
    return path if os.path.isfile(path) else ""
