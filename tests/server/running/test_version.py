"""Which version a server says it runs, where several are installed."""

from importlib.metadata import PathDistribution, version
from pathlib import Path

from rowloom.server.running.version import running_version


def installed(folder: Path, number: str) -> PathDistribution:
    info = folder / f"rowloom-{number}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: rowloom\nVersion: {number}\n")
    return PathDistribution(info)


def test_metadata_of_a_checkout_in_the_working_folder_once_hid_the_version_that_came_with_an_upgrade(
    tmp_path,
):
    known = [
        installed(tmp_path / name, number) for name, number in (("checkout", "0.1"), ("upgrade", "99.1"))
    ]
    code = tmp_path / "upgrade/rowloom/server/running/version.py"
    assert running_version(known, code) == "99.1"
    assert running_version(known[:1], code) == "0.1"


def test_a_checkout_says_what_is_installed():
    assert running_version() == version("rowloom")
