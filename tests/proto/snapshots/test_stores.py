"""URLs that nothing here can open: what is said of them, and the line that mends it."""

import gc
import sys

import pytest
from fsspec import AbstractFileSystem
from fsspec.registry import _registry

from rowloom.proto.errors import InvalidRequest
from rowloom.proto.snapshots.folder import opened_url
from rowloom.proto.snapshots.stores import LIBRARIES, why_not_opened


@pytest.mark.parametrize("protocol", ["s3", "gs", "abfs"])
def test_a_store_whose_library_is_missing_was_refused_without_the_line_that_installs_it(
    protocol, monkeypatch
):
    library = LIBRARIES[protocol]
    monkeypatch.setitem(sys.modules, library, None)  # as if it were not installed
    monkeypatch.delitem(_registry, protocol, raising=False)
    with pytest.raises(InvalidRequest) as refused:
        opened_url(f"{protocol}://bucket/x")
    assert (
        str(refused.value)
        == f"'{protocol}://bucket/x' needs {library}, which is not installed: pip install {library}"
    )


def test_a_library_that_is_there_and_does_not_load_is_not_said_to_be_missing(monkeypatch):
    monkeypatch.setitem(LIBRARIES, "s3", "fsspec")  # stands for one that is surely there
    broken = ImportError("Install s3fs to access S3")
    broken.__cause__ = ImportError("libz.so.1: cannot open shared object file")
    assert why_not_opened("s3://x", broken) == (
        "'s3://x' needs fsspec, which cannot be imported: libz.so.1: cannot open shared object file"
    )


def test_a_url_of_no_store_was_told_as_an_error_of_python():
    with pytest.raises(InvalidRequest) as refused:
        opened_url("foo://x")
    assert str(refused.value) == (
        "'foo://x' cannot be used: it must be a path, or a URL such as file:///var/lib/rowloom or s3://bucket, and "
        "foo:// is no store that is known"
    )


def test_an_error_of_a_store_that_says_a_hundred_lines_is_told_by_its_first():
    error = OSError("Unable to load libjvm\ndlopen(a) failed\ndlopen(b) failed")
    assert why_not_opened("hdfs://x", error) == "'hdfs://x' cannot be used: OSError: Unable to load libjvm"


@pytest.mark.parametrize("url", ["ftp://", "ftp:///folder/x"])
def test_a_url_without_its_host_was_told_in_words_of_python_with_a_traceback_on_stderr(url, monkeypatch):
    ignored: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    with pytest.raises(InvalidRequest) as refused:
        opened_url(url)
    assert (
        str(refused.value)
        == f"{url!r} cannot be used: it says no host: {url.partition(':')[0]}://HOST/FOLDER"
    )
    del refused
    gc.collect()
    assert ignored == []


class Needy(AbstractFileSystem):
    """A store that wants what no URL says."""

    protocol = "needy"

    def __init__(self, instance: str, token: str) -> None:
        super().__init__()


def test_a_store_that_takes_more_than_a_url_can_say_is_named_with_what_it_takes(monkeypatch):
    monkeypatch.setitem(_registry, "needy", Needy)
    with pytest.raises(InvalidRequest, match="it says no instance and no token, which needy:// cannot do"):
        opened_url("needy://foo/bar")


@pytest.mark.parametrize("url", ["blockcache://foo/bar", "dir://x", "generic://x"])
def test_what_a_store_says_of_its_arguments_was_told_by_the_name_of_an_exception(url):
    with pytest.raises(InvalidRequest, match=r":// does not take this URL \(") as refused:
        opened_url(url)
    assert "Error:" not in str(refused.value)
