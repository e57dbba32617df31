"""Manifests: what is written is read back, and nothing else is read."""

import dataclasses
import hashlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rowloom.proto.errors import SnapshotCorrupt
from rowloom.proto.layout import Layout, ShardAddress
from rowloom.proto.snapshots.checksums import BLOCK_BYTES, BlockSums, check_blocks, digits_of
from rowloom.proto.snapshots.manifest import Manifest, SnapshotName
from rowloom.proto.snapshots.rows_file import ID_COLUMNS, header_of, row_bytes
from rowloom.proto.snapshots.stored import (
    MAX_FILE_BYTES,
    MAX_GENERATION,
    StoredFile,
    StoredShard,
    StoredTable,
)

WHOLE = st.integers(0, 2**63)
IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
HEX = st.text("0123456789abcdef", min_size=64, max_size=64)


def stored_file(draw, name: str, size: int, rows: int = 0) -> StoredFile:
    digits = digits_of(size)
    return StoredFile(name, size, draw(st.text("0123456789abcdef", min_size=digits, max_size=digits)), rows)


def row_file(draw, name: str, columns) -> StoredFile:
    rows = draw(st.integers(1, 5000))
    return stored_file(draw, name, len(header_of(columns, rows)) + rows * row_bytes(columns), rows)


@st.composite
def manifests(draw) -> Manifest:
    n = draw(st.integers(0, 3))
    increment = draw(st.booleans())
    kinds = [
        (k, draw(IDS), draw(st.integers(1, 9)), tuple(draw(st.lists(st.integers(0, 9), max_size=3))))
        for k in sorted(draw(st.sets(st.integers(0, 2**32 - 1), max_size=3)))
    ]
    shards = []
    for index in range(n):
        tables, whole = [], not increment or draw(st.booleans())
        for k, (number, name, width, slots) in enumerate(kinds):
            table = StoredTable(number, name, draw(WHOLE), 0, width, slots)
            count, removed = draw(st.integers(0, 2)), 0 if whole else draw(st.integers(0, 2))
            files = [row_file(draw, f"shard-{index:05d}/{k}.{j}", table.columns) for j in range(count)]
            gone = [row_file(draw, f"shard-{index:05d}/{k}.r{j}", ID_COLUMNS) for j in range(removed)]
            rows = sum(file.rows for file in files) if whole else draw(WHOLE)
            tables.append(dataclasses.replace(table, rows=rows, files=tuple(files), removed=tuple(gone)))
        ledger = [
            stored_file(draw, f"shard-{index:05d}/ledger-{j}", draw(st.integers(0, 3 << 20)))
            for j in range(2)
        ]
        generation = draw(st.integers(0, MAX_GENERATION - 1))
        shards.append(StoredShard(index, draw(WHOLE), generation, tuple(tables), tuple(ledger), whole))
    extra = draw(st.booleans())
    addresses = tuple(
        ShardAddress(k, draw(st.text(max_size=9)), draw(st.integers(0, 2**64 - 1))) for k in range(n)
    )
    return Manifest(
        id=draw(IDS),
        cluster_id=draw(st.text(max_size=9)),
        cluster_name=draw(st.text(max_size=9)),
        created_s=draw(st.floats(0, 1e12)),
        layout=Layout(draw(st.text(max_size=9)), draw(st.integers(0, 2**64 - 1)), addresses),
        shards=tuple(shards),
        tables=stored_file(draw, "tables.json", draw(st.integers(0, 2000))),
        parent=SnapshotName(draw(IDS), draw(HEX)) if increment else None,
        extra=stored_file(draw, "extra.bin", 7) if extra else None,
        extra_sha256=draw(HEX) if extra else "",
    )


@given(manifests())
def test_a_manifest_is_read_as_it_was_written(manifest):
    data = manifest.to_bytes()
    again = Manifest.from_bytes(data)
    assert again == manifest
    assert again.to_bytes() == data
    assert all(StoredShard.from_json(shard.to_json()) == shard for shard in manifest.shards)


@given(manifests(), st.data())
def test_a_manifest_with_any_byte_changed_or_cut_or_added_is_refused(manifest, data):
    good = manifest.to_bytes()
    bad = bytearray(good)
    place = data.draw(st.integers(0, len(bad) - 1))
    bad[place] = data.draw(st.integers(0, 255).filter(lambda value: value != good[place]))
    for wrong in (bytes(bad), good[:place], good[:place] + b" " + good[place:], good + b"\n"):
        with pytest.raises(SnapshotCorrupt, match=r"MANIFEST\.json"):
            Manifest.from_bytes(wrong)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def places(value, path=()):
    """The paths of all values within one."""
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


@given(manifests(), JSON, st.data())
def test_a_manifest_with_any_value_replaced_is_refused_with_words_and_not_with_a_crash(manifest, value, data):
    content = json.loads(manifest.to_bytes())
    *path, last = data.draw(st.sampled_from([path for path in places(content) if path]))
    inner = content
    for key in path:
        inner = inner[key]
    if json.dumps(inner[last]) == json.dumps(value):
        return
    inner[last] = value
    content["digest"] = digest_of(content)
    text = (json.dumps(content, sort_keys=True, indent=1) + "\n").encode()
    try:
        again = Manifest.from_bytes(text)
    except SnapshotCorrupt:
        return
    assert again.to_bytes() == text  # the digest is right, so somebody may have written it


def digest_of(content: dict) -> str:
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@given(st.binary(max_size=200))
def test_what_is_no_manifest_is_refused(data):
    with pytest.raises(SnapshotCorrupt, match=r"MANIFEST\.json"):
        Manifest.from_bytes(data)


EMPTY = Manifest("s", "c", "n", 1.0, Layout("c", 1, ()), (), StoredFile("tables.json", 0, ""))


def test_another_version_is_refused_with_both_versions():
    text = EMPTY.to_bytes().replace(b'"version": 1', b'"version": 2')
    with pytest.raises(
        SnapshotCorrupt, match=r"s/MANIFEST\.json is of format version 2, this rowloom reads version 1"
    ):
        Manifest.from_bytes(text, "s/MANIFEST.json")


def test_another_kind_of_file_is_refused():
    with pytest.raises(SnapshotCorrupt, match="no manifest of a snapshot: format is 'None'"):
        Manifest.from_bytes(b"{}")


def test_deep_json_is_refused():
    with pytest.raises(SnapshotCorrupt, match="is no JSON"):
        Manifest.from_bytes(b"[" * 200_000)


def test_the_digest_can_be_made_by_anyone():
    content = json.loads(EMPTY.to_bytes())
    assert content["digest"] == EMPTY.digest == digest_of(content)


@pytest.mark.parametrize(
    "name",
    ["", "../a", "/etc/passwd", "a/b", "shard-00000/../a", "shard-0/a", ".hidden", "shard-00000/.a", "a\n"],
)
def test_a_name_that_leads_out_of_the_folder_is_refused(name):
    with pytest.raises(SnapshotCorrupt, match="is no name of a file in a snapshot"):
        StoredFile(name, 0, "")


def refused(words: str, **changes):
    with pytest.raises(SnapshotCorrupt, match=words):
        dataclasses.replace(EMPTY, **changes)


def test_what_does_not_belong_together_is_refused():
    layout = Layout("c", 1, (ShardAddress(0, "a"),))
    table = StoredTable(1, "t", 0, 5, 4, ())
    file = StoredFile("shard-00000/x", 0, "")
    refused("the layout has 1 shards, there are parts of 0", layout=layout)
    refused("the layout has 1 shards, part 0 is of shard 1", layout=layout, shards=(StoredShard(1, 1, 1),))
    refused("'a b' is no id", id="a b")
    refused("created_s is inf", created_s=math.inf)
    refused("extra needs a digest", extra_sha256="a" * 64)
    refused("two files are called tables.json", extra=StoredFile("tables.json", 0, ""), extra_sha256="a" * 64)
    part = StoredShard(0, 1, 1, (table,), whole=False)
    refused(r"shards \[0\] did not write all rows", layout=layout, shards=(part,))
    with pytest.raises(SnapshotCorrupt, match="table 't' had 5 rows, 0 are stored"):
        StoredShard(0, 1, 1, (table,))
    refused(
        "two files are called shard-00000/x", layout=layout, shards=(StoredShard(0, 1, 1, (), (file, file)),)
    )
    with pytest.raises(SnapshotCorrupt, match="has at most"):
        StoredFile("a", MAX_FILE_BYTES + 1, "")
    with pytest.raises(SnapshotCorrupt, match="have 16 hexadecimal digits"):
        StoredFile("a", BLOCK_BYTES + 1, "0" * 8)
    with pytest.raises(SnapshotCorrupt, match="its tables are not in order"):
        StoredShard(0, 1, 1, (table, table))
    with pytest.raises(SnapshotCorrupt, match="5 rows have"):
        dataclasses.replace(table, files=(StoredFile("a", 5, "0" * 8, 5),))


@given(st.lists(st.integers(0, 3 * BLOCK_BYTES), max_size=4))
def test_checksums_do_not_depend_on_how_the_bytes_came(sizes):
    data = bytes(range(251)) * (sum(sizes) // 251 + 1)
    together, apart = BlockSums(), BlockSums()
    together.add(data[: sum(sizes)])
    begin = 0
    for size in sizes:
        apart.add(memoryview(data)[begin : begin + size])
        begin += size
    assert (together.text(), together.bytes) == (apart.text(), apart.bytes)
    check_blocks(memoryview(data)[: sum(sizes)], apart.text(), "f")


def changed(change) -> bytes:
    """EMPTY's bytes with its JSON changed; the digest is made anew."""
    content = json.loads(EMPTY.to_bytes())
    change(content)
    content.pop("digest")
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return (json.dumps({**content, "digest": digest}, sort_keys=True, indent=1) + "\n").encode()


def test_parts_of_very_many_shards_were_all_read_and_all_printed():
    part = json.loads(StoredShard(0, 1, 1).to_json())
    with pytest.raises(SnapshotCorrupt, match=r"the layout has 0 shards, there are parts of 50000$"):
        Manifest.from_bytes(changed(lambda content: content.update(shards=[part] * 50_000)))
    tables = tuple(StoredTable(k, "t" * 50, 0, 0, 1, ()) for k in range(1000))
    layout = Layout("c", 1, (ShardAddress(0, "a"), ShardAddress(1, "b")))
    with pytest.raises(SnapshotCorrupt, match="do not have the same tables") as caught:
        dataclasses.replace(EMPTY, layout=layout, shards=(StoredShard(0, 1, 1, tables), StoredShard(1, 1, 1)))
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(("key", "most"), [("lsn", (1 << 64) - 1), ("generation", MAX_GENERATION - 1)])
def test_a_number_of_more_than_64_bits_was_sound(key, most):
    part = {**json.loads(StoredShard(0, 1, 1).to_json()), key: 1 << 64}
    with pytest.raises(SnapshotCorrupt, match=f"{key} is no number of 64 bits: {1 << 64}"):
        StoredShard.from_json(json.dumps(part).encode())
    part[key] = most
    StoredShard.from_json(json.dumps(part).encode())
