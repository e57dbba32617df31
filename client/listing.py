"""Tables as people look at them: in a terminal, in a notebook, by tab."""

from __future__ import annotations

import html
import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from ..proto.spec import TableSpec

if TYPE_CHECKING:
    from rich.table import Table as Grid

_HEADINGS = ("table", "ids", "row", "optimizer", "partition", "")


class Listing(list[Any]):
    """Tables, as a list; rich and notebooks show it as a table.

    Args:
        tables: each has a `spec`.
    """

    def _lines(self) -> list[tuple[str, ...]]:
        return [_line(table.spec) for table in self]

    def __rich__(self) -> Grid:
        from rich.markup import escape
        from rich.table import Table as Grid

        grid = Grid(*_HEADINGS)
        for line in self._lines():
            grid.add_row(*map(escape, line))
        return grid

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        rows = [_html("th", _HEADINGS), *(_html("td", line) for line in self._lines())]
        return f"<table>{''.join(rows)}</table>"


def _line(spec: TableSpec) -> tuple[str, ...]:
    ids = "open-ended" if spec.num_embeddings is None else f"{spec.num_embeddings:,}"
    row = " x ".join(map(str, spec.row_shape)) or "a number"
    notes = ["frozen"] * spec.frozen + [spec.wire] * (spec.wire != "float32")
    partition = f"{spec.partition} of a hash" if spec.hash_ids else spec.partition
    return spec.name, ids, row, str(spec.optimizer), partition, ", ".join(notes)


def _html(cell: str, texts: Iterable[str]) -> str:
    return f"<tr>{''.join(f'<{cell}>{html.escape(text)}</{cell}>' for text in texts)}</tr>"


def screen(kind: type, about: Mapping[str, str] | None = None) -> str:
    """What `help` says of an object: what it is, and a line for each thing that can be done with it. No longer.

    Args:
        kind: its class; what this does not define itself is left out.
        about: further names, with their line.
    """
    names = {name: _first_line(getattr(kind, name)) for name in public_names(kind)} | dict(about or {})
    width = max(map(len, names))
    lines = [f"  {name:{width}}  {text}" for name, text in sorted(names.items())]
    return "\n".join(
        [_first_line(kind), "", *lines, "", f"help({kind.__name__}.NAME) says more of one of them."]
    )


def public_names(kind: type) -> list[str]:
    """Names that a class itself offers, sorted."""
    return sorted(name for name in vars(kind) if not name.startswith("_"))


def _first_line(thing: Any) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]
