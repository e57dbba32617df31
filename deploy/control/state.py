"""What a coordinator must not forget, as one value."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from google.protobuf import json_format

from ...proto import rowloom_pb2 as pb
from ...proto.errors import RowloomError
from ...proto.layout import Layout
from ...proto.spec import TableEntry

FORMAT = 1


@dataclass
class ClusterState:
    """The layout, the tables, and which launcher key each shard has.

    Attributes:
        layout: the newest committed layout; None before the cluster is up.
        keys: by shard index, the launcher's key of its server.
        tables: by name.
        next_key, next_table: never used before.
        term: counts coordinators of this cluster; turns of a later one are higher.
    """

    name: str
    layout: Layout | None = None
    keys: list[int] = field(default_factory=list)
    tables: dict[str, TableEntry] = field(default_factory=dict)
    next_key: int = 0
    next_table: int = 1
    term: int = 0

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(
            {
                "format": FORMAT,
                "name": self.name,
                "layout": json_format.MessageToDict(self.layout.to_message()) if self.layout else None,
                "keys": self.keys,
                "tables": [json_format.MessageToDict(e.to_message()) for e in self.tables.values()],
                "next_key": self.next_key,
                "next_table": self.next_table,
                "term": self.term,
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> ClusterState:
        """From JSON. Raises RowloomError if it is no state of a version that this one reads."""
        try:
            data = json.loads(text)
            if data["format"] != FORMAT:
                raise RowloomError(f"the state has format {data['format']}, this version reads {FORMAT}")
            layout = data["layout"] and Layout.from_message(
                json_format.ParseDict(data["layout"], pb.Layout())
            )
            entries = [
                TableEntry.from_message(json_format.ParseDict(e, pb.TableEntry())) for e in data["tables"]
            ]
            return cls(
                name=data["name"],
                layout=layout,
                keys=list(data["keys"]),
                tables={e.spec.name: e for e in entries},
                next_key=data["next_key"],
                next_table=data["next_table"],
                term=data["term"],
            )
        except (KeyError, ValueError, TypeError, json_format.ParseError) as e:
            raise RowloomError(f"the cluster's state file is damaged: {e}") from e
