"""Fixtures for all tests, and how hypothesis runs here."""

import os
import tempfile

import pytest
from hypothesis import settings

# No deadline: a busy machine is no bug. On CI the same examples every time: a red run must mean a new fault.
settings.register_profile("rowloom", deadline=None, print_blob=True, derandomize="CI" in os.environ)
settings.load_profile("rowloom")


@pytest.fixture(scope="session", autouse=True)
def ray_folder():
    """Where the Rays of this run announce themselves: tests never find one that runs on this machine for others.

    Its path is short: those of Ray's sockets have a limit of 107 bytes.
    """
    with (
        tempfile.TemporaryDirectory(prefix="ray", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.delenv("RAY_ADDRESS", raising=False)
        yield folder


@pytest.fixture
def cluster():
    """Two shards in this process, gone after the test."""
    from rowloom.deploy import local_cluster

    with local_cluster(shards=2) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    """A client of `cluster`."""
    with cluster.connect() as client:
        yield client


@pytest.fixture
def oracle():
    """What a cluster must equal: see oracle.py."""
    from oracle import Oracle

    return Oracle()
