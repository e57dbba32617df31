"""`tables.json`: the specs of a snapshot's tables, with their numbers and the learning rates in force."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, cast

from google.protobuf import json_format

from .. import rowloom_pb2 as pb
from ..errors import InvalidRequest, SnapshotCorrupt
from ..spec import TableEntry
from .checked_json import parsed, take


def tables_json(entries: Sequence[TableEntry], steps: Sequence[int]) -> bytes:
    """The file: each table as protobuf's JSON of a TableEntry, and the step that it had reached."""
    tables = [
        {
            "table": json_format.MessageToDict(entry.to_message(), preserving_proto_field_name=True),
            "step": step,
        }
        for entry, step in zip(entries, steps, strict=True)
    ]
    return (json.dumps({"tables": tables}, indent=1) + "\n").encode()


def parse_tables(data: bytes, where: str) -> tuple[TableEntry, ...]:
    """The tables in the file; where: its name, for messages. Raises SnapshotCorrupt."""
    found = cast(list[Any], take(parsed(data, where), "tables", list))
    try:
        messages = [json_format.ParseDict(_table(table), pb.TableEntry()) for table in found]
        return tuple(TableEntry.from_message(message) for message in messages)
    except (json_format.ParseError, InvalidRequest, ValueError, TypeError) as e:
        raise SnapshotCorrupt(f"{where} is damaged: {e}") from e


def _table(content: Any) -> dict[str, Any]:
    return cast(dict[str, Any], take(content, "table", dict))
