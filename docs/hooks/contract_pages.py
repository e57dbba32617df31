"""The reference of what crosses the wire and lies on disk: messages, errors, files of a snapshot. Read from sources."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from api_page import FACES, ROOT, code, definition_of, head, literal, names_of, prose

STORED = {
    "proto/snapshots/manifest.py": ["Manifest", "SnapshotName"],
    "proto/snapshots/stored.py": ["StoredFile", "StoredShard", "StoredTable"],
}


def read(name: str) -> str:
    """A file of the repository."""
    return (ROOT / name).read_text(encoding="utf-8")


def wire_page() -> str:
    """Every message of the contract, with its comments, as the file has them."""
    parts = [
        "# Messages",
        "What crosses the wire, as `proto/rowloom.proto` says it; in the sources it is one file.",
    ]
    first, *rest = re.split(r"(?m)^// -{20,} (.+)$", read("proto/rowloom.proto"))
    parts.append(comments(first))
    for title, body in zip(rest[::2], rest[1::2], strict=True):
        parts.append(f"## {title.strip().capitalize()}")
        parts += [message(block) for block in re.split(r"\n\n(?=//|message|enum|service)", body.strip())]
    return "\n\n".join(parts) + "\n"


def comments(text: str) -> str:
    """The comment lines of a text, without their slashes."""
    lines = [line[2:].strip() for line in text.splitlines() if line.startswith("//")]
    return literal("\n".join(lines))


def message(block: str) -> str:
    """One message, enum or service under its name, its fields with their comments."""
    found = re.search(r"(?m)^(?:message|enum|service) (\w+)", block)
    shown = f"```proto\n{block.strip()}\n```"
    return f"### {found[1]}\n\n{shown}" if found else shown


def errors_page() -> str:
    """The tree of errors, then each one that callers see, with its status over gRPC."""
    path = ROOT / "proto/errors.py"
    tree = ast.parse(read("proto/errors.py"))
    first, _, drawn = (ast.get_docstring(tree) or "").partition("\n\n")
    offered = set(names_of(ast.parse(read(FACES["rowloom.client"]))))
    statuses = {
        ast.unparse(key): ast.literal_eval(value)
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "STATUS"
        for key, value in zip(node.value.keys, node.value.values, strict=True)  # type: ignore[union-attr]
    }
    parts = ["# Errors", first, f"```text\n{drawn}\n```"]
    for name in [n.name for n in tree.body if isinstance(n, ast.ClassDef)]:
        _, node = definition_of(name, path)
        who = "`from rowloom.client import " + name + "`" if name in offered else "Callers never see it."
        status = f" Over gRPC: `{statuses[name]}`." if name in statuses else ""
        shown = code(head(node)) if name in offered else ""
        parts += [f"## `{name}`", shown, prose(ast.get_docstring(node) or ""), who + status]
    return "\n\n".join(part for part in parts if part) + "\n"


def snapshot_page() -> str:
    """The values that a manifest is made of, and which version of the format they are."""
    version = re.search(r"(?m)^VERSION = (\d+)$", read("proto/snapshots/manifest.py"))
    parts = [
        "# Values of a manifest",
        f"Version {version[1] if version else '?'}. [The format](../snapshot_format.md) says how they lie in files.",
    ]
    for file, names in STORED.items():
        parts.append(prose(ast.get_docstring(ast.parse(read(file))) or ""))
        for name in names:
            _, node = definition_of(name, ROOT / file)
            parts += [f"## `{name}`", code(head(node)), prose(ast.get_docstring(node) or "")]
    return "\n\n".join(parts) + "\n"


def source_page(path: Path) -> str:
    """An example, whole."""
    text = path.read_text(encoding="utf-8")
    return f"# {path.stem.replace('_', ' ').capitalize()}\n\n`{path.relative_to(ROOT)}`\n\n```py\n{text}```\n"
