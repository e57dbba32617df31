"""What `rowloom status` says."""

from rich.console import Console

from rowloom.deploy.operate.status import render_status, summary
from rowloom.proto import rowloom_pb2 as pb


def text(status: pb.StatusReply) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(render_status(summary(status)))
    return capture.get()


def test_status_says_what_has_not_reached_every_shard() -> None:
    # One shard learned at another rate than the others, and nothing said so.
    left = "lr of table 't' has not reached every shard yet"
    status = pb.StatusReply(name="ads", unfinished=[left])
    assert summary(status)["unfinished"] == [left]
    assert f"not finished yet: {left}" in text(status)
    assert "not finished" not in text(pb.StatusReply(name="ads"))
