"""Fixtures for all tests, and how hypothesis runs here."""

import os
import tempfile
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

# No deadline, and no look at how long it takes to make examples: a busy machine is no bug. On CI the same examples
# every time: a red run must mean a new fault.
settings.register_profile(
    "rowloom",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    print_blob=True,
    derandomize="CI" in os.environ,
)
settings.load_profile("rowloom")
LONGEST = "test_wheel.py"  # installs ours elsewhere, where all is compiled anew
# Folders of tests that take long.
SLOW = {"chaos", "deploy", "end_to_end", "examples", "project", "simulation"}


def pytest_configure(config: pytest.Config) -> None:
    """With xdist, files go to workers in the order of collection; by itself it begins with those of most tests."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Workers of xdist begin with files of few tests that take long, or one of them ends minutes after the other."""
    if not hasattr(config, "workerinput"):
        return
    slow = {item.path for item in items if item.get_closest_marker("ray") or SLOW & set(item.path.parts)}
    tests = Counter(item.path for item in items)
    items.sort(key=lambda item: (item.path.name != LONGEST, item.path not in slow, -tests[item.path]))


def pytest_terminal_summary(terminalreporter) -> None:
    """What passed only when it was run again is a fault to find: here is why it failed at first."""
    reports = terminalreporter.stats.get("rerun", [])
    if reports:
        terminalreporter.section("why tests were run again")
    for report in reports:
        terminalreporter.write_line(f"{report.nodeid}\n{report.longreprtext[-2000:]}\n")


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


@pytest.fixture
def cli(tmp_path, monkeypatch, capsys):
    """`rowloom` in an empty folder. Its clusters end with the test."""
    from command_line import Cli

    cli = Cli(tmp_path, monkeypatch, capsys)
    yield cli
    for name in cli.directory.names():
        if name != cli.stays:
            cli.run("down", "--name", name, "--yes")
