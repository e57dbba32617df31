"""Options of gRPC, which takes any name for one and passes over those that it does not know."""

from pathlib import Path

import grpc
import pytest

from rowloom.proto.channel import CHANNEL_OPTIONS, SERVER_OPTIONS


@pytest.fixture(scope="module")
def library() -> bytes:
    (path,) = (Path(grpc.__file__).parent / "_cython").glob("cygrpc*.so")
    return path.read_bytes()


@pytest.mark.parametrize("name", sorted({name for name, _ in CHANNEL_OPTIONS + SERVER_OPTIONS}))
def test_grpc_knows_every_option_by_that_name(library: bytes, name: str) -> None:
    """The interval of pings was set by another name, for nothing."""
    assert name.encode() + b"\0" in library
