"""Numbers of what is pushed: none stays open, wherever its call has ended."""

import threading

import pytest

from rowloom.client.calls.pusher import Pusher
from rowloom.proto.codec import PartName
from rowloom.proto.layout import Layout, ShardAddress

LAYOUT = Layout("c", 1, (ShardAddress(0, "h:1", 1),))


class Interrupted(list[PartName]):
    """Names of a request, where Ctrl-C comes just when one is added."""

    def append(self, name: PartName) -> None:
        raise KeyboardInterrupt


class Part:
    """What goes to shard 0."""

    shard = 0

    def __init__(self, names: list[PartName]) -> None:
        self.names = names


def test_a_number_that_nobody_held_yet_when_ctrl_c_came_stayed_open() -> None:
    """Only the numbers of holders were given back; an interrupt hits the moment before once in some dozens."""
    pusher = Pusher(7, threading.Lock())
    pusher.name(Part([]), LAYOUT)
    with pytest.raises(KeyboardInterrupt):
        pusher.name(Part(Interrupted()), LAYOUT)
    assert pusher.open_numbers
    pusher.end_call()
    assert pusher.open_numbers == 0
    assert pusher.name(Part([]), LAYOUT) == (2, 1)  # the shard forgets both
