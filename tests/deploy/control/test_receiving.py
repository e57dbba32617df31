"""What is said of shards that ceased to receive."""

import pytest

from rowloom.deploy.control.effects import Calls
from rowloom.deploy.control.receiving import progress_of
from rowloom.proto import rowloom_pb2 as pb
from rowloom.proto.errors import Unavailable
from rowloom.proto.layout import Layout, ShardAddress


def why_stopped(error: str) -> str:
    """What a scaling says of a shard whose error this is."""
    program = progress_of(Layout("ads-1", 2, (ShardAddress(0, "127.0.0.1:9", 7),)), lambda: 0.0)
    assert isinstance(next(program), Calls)
    with pytest.raises(Unavailable) as caught:
        program.send([pb.ProgressReply(error=error, epoch=2).SerializeToString()])
    return str(caught.value)


@pytest.mark.parametrize(
    "of_pushes",
    [
        "the push was applied, but could not be written to the log: {}",
        "the push was applied, but whether it survives a restart of the shard is not known: its log failed: {}",
    ],
)
def test_a_scaling_on_a_full_disk_spoke_of_a_push_and_named_no_way_out(of_pushes):
    full = "[Errno 28] No space left on device: '/d/spare-2.new'"
    assert why_stopped(of_pushes.format(full)) == (
        f"shard 0 at 127.0.0.1:9 stopped receiving: the rows could not be written to its log: {full}; make room on "
        "that disk, or mend it, and try again"
    )
    assert why_stopped("it was told to end").endswith("stopped receiving: it was told to end")
