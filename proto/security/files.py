"""Files with keys, certificates and tokens: whether they may be used, and what they hold now.

Why it is so. Certificates and tokens are replaced while servers run, so nothing that was read is kept for good. Whoever
replaces two files does it one after the other, so what does not fit together is no reason to stop: the last that did
is used until it does, and the log says so.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from ..errors import InvalidRequest, in_words

log = logging.getLogger(__name__)
MOST_BYTES = 4 << 20  # of a file: a bundle of all CAs of a system has a quarter of a megabyte
LOOK_S = 1.0  # how often files are looked at, at the most
T = TypeVar("T")


def read_file(path: str, what: str) -> bytes:
    """A file's bytes. what: it is, for messages. Raises InvalidRequest."""
    return _read(path, what)[0]


def read_private(path: str, what: str) -> bytes:
    """The bytes of a file that is nobody else's business. Raises InvalidRequest: it cannot be read, or others may."""
    data, found = _read(path, what)
    _check_owner(path, what, found)
    readable = found.st_mode & stat.S_IRWXO or (found.st_mode & stat.S_IRWXG and found.st_uid != 0)
    if readable:
        raise InvalidRequest(
            f"{what} {path} may be read by others (mode {stat.S_IMODE(found.st_mode):04o}), so it is not used: "
            f"`chmod 600 {path}`; a file of root may be readable by a group, 0640"
        )
    return data


def read_guarded(path: str, what: str) -> bytes:
    """The bytes of a file that others may read and not change, its group neither. Raises InvalidRequest."""
    data, found = _read(path, what)
    _check_owner(path, what, found)
    mode = stat.S_IMODE(found.st_mode)
    if mode & (stat.S_IWOTH | stat.S_IWGRP):
        raise InvalidRequest(
            f"{what} {path} may be changed by others (mode {mode:04o}), so it is not used: `chmod 600 {path}`"
        )
    return data


def _read(path: str, what: str) -> tuple[bytes, os.stat_result]:
    """A file's bytes, and what the system says of that very file, not of what has its name a moment later."""
    try:
        with open(path, "rb", opener=_at_once) as file:
            found = os.fstat(file.fileno())
            regular = stat.S_ISREG(found.st_mode)
            data = file.read(MOST_BYTES + 1) if regular else b""
    except OSError as e:
        raise InvalidRequest(f"{what} {path} cannot be read: {e.strerror or e}") from None
    if not regular or len(data) > MOST_BYTES:
        is_no = "it is no file" if not regular else f"it has more than {MOST_BYTES:,} bytes"
        raise InvalidRequest(f"{what} {path} cannot be used: {is_no}")
    return data, found


def _at_once(path: str, flags: int) -> int:
    """Opens a file; a pipe would be waited for."""
    return os.open(path, flags | os.O_NONBLOCK)


def _check_owner(path: str, what: str, found: os.stat_result) -> None:
    """Raise InvalidRequest if somebody else could change the file, or put another one in its place."""
    if found.st_uid not in (0, os.geteuid()):
        raise InvalidRequest(
            f"{what} {path} belongs to user {found.st_uid}, who may change it, so it is not used: "
            f"`chown {os.geteuid()} {path}`"
        )
    folder = os.path.dirname(os.path.abspath(path))
    mode = os.stat(folder).st_mode
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise InvalidRequest(
            f"{what} {path} is in a folder in which everybody may put another file in its place (mode "
            f"{stat.S_IMODE(mode):04o}), so it is not used: `chmod o-w {folder}`"
        )


class Reloaded(Generic[T]):
    """What was made of some files, made anew when they have changed. Thread-safe.

    Args:
        what: it is, for the log.
        files: paths; empty ones are passed over.
        make: reads them; raises InvalidRequest.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        what: str,
        files: Sequence[str],
        make: Callable[[], T],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._files = [path for path in files if path]
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: list[tuple[int, ...]] = []
        self._made: list[T] = []  # none as long as nothing was made
        self._look_at = 0.0

    def now(self, *, look: bool = False) -> T:
        """The newest that can be used. Raises InvalidRequest as long as there was none.

        look: at the files in any case, however short ago that was done.
        """
        now = self._clock()
        if self._made and now < self._look_at and not look:
            return self._made[0]
        with self._lock:
            seen = [_stamp(path) for path in self._files]
            if not self._made:
                self._made = [self._make()]
            elif seen != self._seen:
                self._renew()
            self._seen, self._look_at = seen, now + LOOK_S
            return self._made[0]

    def _renew(self) -> None:
        try:
            self._made = [self._make()]
        except Exception as e:  # whatever a library says of files that do not fit together
            log.error("%s changed and cannot be used, the one before is: %s", self._what, in_words(e))
        else:
            log.info("%s was read anew", self._what)


def _stamp(path: str) -> tuple[int, ...]:
    """Another one when a file has changed, also where it is a link that was turned, as Kubernetes does it."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino
