"""The heads of one identity's PushRequests: all but the tables. No I/O, no threads.

Why messages are kept: of a small push's time in the client a tenth went into making these anew, and from one push to
the next of the same identity to the same shard only a few numbers change.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...proto import rowloom_pb2 as pb
from ...proto.codec import PartName
from ...proto.layout import Layout


class PushHeads:
    """One message for each shard of the newest layout. Used by one call at a time.

    Args:
        client_id, client_epoch: whose pushes they are.
    """

    def __init__(self, client_id: int, client_epoch: int) -> None:
        self._whose = client_id, client_epoch
        self._layout: Layout | None = None
        self._messages: list[pb.PushRequest] = []

    def write(
        self,
        layout: Layout,
        shard: int,
        names: Sequence[PartName],
        push: int,
        finished: tuple[int, int],
        how: tuple[int, int, float, float, int],
    ) -> bytes:
        """A head.

        Args:
            layout: the newest.
            shard: whom it is for.
            names: of the part, as in PushRequest.
            push: the number of the call.
            finished: low_water and oldest_epoch, as in PushRequest.
            how: kind, wire, max_norm, norm_type and parts, as there.
        """
        if layout is not self._layout:
            self._begin(layout)
        message = self._messages[shard]
        _name(message, names)
        message.push = push
        message.low_water, message.oldest_epoch = finished
        message.kind, message.wire, message.max_norm, message.norm_type, message.parts = how  # type: ignore[assignment]
        return message.SerializeToString()

    def _begin(self, layout: Layout) -> None:
        client_id, client_epoch = self._whose
        self._messages = [
            pb.PushRequest(header=layout.header(shard), client_id=client_id, client_epoch=client_epoch)
            for shard in range(layout.n)
        ]
        self._layout = layout


def _name(message: pb.PushRequest, names: Sequence[PartName]) -> None:
    kept = message.names
    if len(kept) != len(names):
        del kept[:]
        for _ in names:
            kept.add()
    for one, (epoch, shard, seq) in zip(kept, names, strict=True):
        one.epoch, one.shard, one.seq = epoch, shard, seq
