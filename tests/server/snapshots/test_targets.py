"""Putting files into an object store: what is tried again, what never is, and what is never written over."""

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from snapshot_life import empty_memory

from rowloom.server.snapshots.target import ObjectTarget, target_of


def test_a_put_whose_answer_was_lost_is_no_failure_and_nothing_is_written_over():
    url, fs = empty_memory(), MemoryFileSystem()
    folder = url.removeprefix("memory:/") + "/snap"
    lost = []

    class Losing:
        def __getattr__(self, name):
            return getattr(fs, name)

        def pipe_file(self, path, data):
            fs.pipe_file(path, data)
            lost.append(path)
            raise ConnectionResetError("the answer was lost")

    pauses = []
    target = ObjectTarget(Losing(), folder, pauses.append)
    target.put("shard-00000/a", [b"a", b"b"])
    assert (len(lost), len(pauses)) == (1, 1)
    target.commit(b"{}")
    assert fs.cat_file(f"{folder}/MANIFEST.json") == b"{}"
    target_of(f"{url}/snap").put("shard-00000/a", [b"ab"])
    with pytest.raises(FileExistsError, match="snap/shard-00000/a is there already"):
        target_of(f"{url}/snap").put("shard-00000/a", [b"ba"])
    assert fs.cat_file(f"{folder}/shard-00000/a") == b"ab"


def test_a_store_that_never_answers_is_given_up_after_a_few_attempts():
    class Down:
        def __getattr__(self, name):
            raise ConnectionResetError("nobody there")

        def invalidate_cache(self):
            pass

        def unstrip_protocol(self, path):
            return f"s3://{path}"

    pauses = []
    with pytest.raises(OSError, match="s3://bucket/a cannot be written: ConnectionResetError: nobody there"):
        ObjectTarget(Down(), "bucket", pauses.append).put("a", [b""])
    assert pauses == [0.1, 0.5, 2.0]
