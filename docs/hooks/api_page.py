"""The reference of the Python API, read from the sources: nothing is imported, so no framework must be installed."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TypeGuard

ROOT = Path(__file__).parents[2]
FACES = {
    "rowloom.client": "client/__init__.py",
    "rowloom.client.layers_torch": "client/layers_torch/__init__.py",
    "rowloom.client.layers_keras": "client/layers_keras/__init__.py",
    "rowloom.client.layers_jax": "client/layers_jax/__init__.py",
    "rowloom.deploy": "deploy/__init__.py",
}
SECTIONS = {
    "Args": "Arguments",
    "Attributes": "Attributes",
    "Returns": "Returns",
    "Raises": "Raises",
    "Example": "Example",
    "Yields": "Yields",
}
Definition = ast.ClassDef | ast.FunctionDef


def api_page(module: str) -> str:
    """The page of one face: everything that its `__all__` names, in that order."""
    path = ROOT / FACES[module]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [definition_of(name, path) for name in names_of(tree)]
    parts = [f"# `{module}`", prose(ast.get_docstring(tree) or "")]
    parts += [entry(module, place, node) for place, node in found]
    return "\n\n".join(part for part in parts if part) + "\n"


def names_of(tree: ast.Module) -> list[str]:
    """What `__all__` of a module says."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise LookupError("a face without __all__")


def definition_of(name: str, path: Path) -> tuple[Path, Definition]:
    """The file in which a name of a module is defined, and its definition; imports are followed."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, Definition) and node.name == name:
            return path, node
        if (
            isinstance(node, ast.ImportFrom)
            and node.level
            and name in {a.asname or a.name for a in node.names}
        ):
            original = next(a.name for a in node.names if name in (a.asname, a.name))
            return definition_of(original, imported(node, path))
    raise LookupError(f"{name} is not defined in {path}")


def imported(node: ast.ImportFrom, path: Path) -> Path:
    """The file of a relative import."""
    folder = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
    return folder / "__init__.py" if (folder / "__init__.py").is_file() else folder.with_suffix(".py")


def entry(module: str, path: Path, node: Definition) -> str:
    """One class or function: its heading, signature and docstring; of a class its public methods too."""
    above = bases(node, path)
    parts = [f"## `{node.name}`", code(head(node, above)), prose(ast.get_docstring(node) or "")]
    if isinstance(node, ast.ClassDef):
        methods = {
            n.name: n
            for c in [*above, node]
            for n in c.body
            if isinstance(n, ast.FunctionDef) and is_public(n)
        }
        parts += [method(node.name, part) for part in methods.values()]
    parts.append(f"<small>`{path.relative_to(ROOT)}`, imported from `{module}`</small>")
    return "\n\n".join(part for part in parts if part)


def bases(node: Definition, path: Path) -> list[ast.ClassDef]:
    """The classes of ours that a class extends, the root first."""
    found: list[ast.ClassDef] = []
    for base in node.bases if isinstance(node, ast.ClassDef) else []:
        try:
            where, above = definition_of(ast.unparse(base), path)
        except LookupError:  # of Python or of a framework
            continue
        if isinstance(above, ast.ClassDef):
            found += [*bases(above, where), above]
    return found


def is_public(node: ast.FunctionDef) -> bool:
    """Whether it is a method or property that users call, with a docstring."""
    return not node.name.startswith("_") and not is_setter(node) and bool(ast.get_docstring(node))


def is_setter(node: ast.FunctionDef) -> bool:
    """Whether it only lets a property be set."""
    return any(ast.unparse(d).endswith(".setter") for d in node.decorator_list)


def method(of: str, node: ast.FunctionDef) -> str:
    """One method or property, below its class."""
    is_property = any(ast.unparse(d) == "property" for d in node.decorator_list)
    what = f"{of}.{node.name}"
    shown = f"{what}: {ast.unparse(node.returns)}" if is_property and node.returns else signature(what, node)
    return "\n\n".join([f"### `{what}`", code(shown), prose(ast.get_docstring(node) or "")])


def head(node: Definition, above: Sequence[ast.ClassDef] = ()) -> str:
    """How a function is called, or a class is made; `above` are the classes that it extends."""
    if isinstance(node, ast.FunctionDef):
        return signature(node.name, node)
    classes = [*above, node]
    inits = [n for c in classes for n in c.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
    if inits:
        return "class " + signature(node.name, inits[-1]).partition(" -> ")[0]
    if any("dataclass" in ast.unparse(d) for d in node.decorator_list):
        fields = {ast.unparse(n.target): n for c in classes for n in c.body if is_field(n)}
        return f"class {node.name}(" + "".join(f"\n    {ast.unparse(n)}," for n in fields.values()) + "\n)"
    named = ", ".join(ast.unparse(base) for base in node.bases)
    return f"class {node.name}({named})" if named else f"class {node.name}"


def is_field(node: ast.stmt) -> TypeGuard[ast.AnnAssign]:
    """Whether a line of a dataclass is a field."""
    return isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation)


def signature(name: str, node: ast.FunctionDef) -> str:
    """`name(arguments) -> result`, an argument a line if it is long; without self."""
    listed = [text for text in split_arguments(ast.unparse(node.args)) if text not in ("self", "cls")]
    result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    line = f"{name}({', '.join(listed)}){result}"
    return line if len(line) <= 90 else f"{name}(\n    " + ",\n    ".join(listed) + f",\n){result}"


def split_arguments(text: str) -> list[str]:
    """The arguments of a signature; commas inside of brackets do not count."""
    out, depth, current = [], 0, ""
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            out.append(current.strip())
            current = ""
        else:
            current += letter
    return [*out, current.strip()] if current.strip() else out


def code(text: str) -> str:
    """A block of Python that is shown and not run."""
    return f"```py\n{text}\n```"


def prose(docstring: str) -> str:
    """A docstring in google style as Markdown: sections get a title, their entries become a list."""
    lines, out = docstring.splitlines(), []
    at = 0
    while at < len(lines):
        title = SECTIONS.get(lines[at].removesuffix(":")) if lines[at].endswith(":") else None
        end = at + 1
        while end < len(lines) and (not lines[end].strip() or lines[end].startswith(" ")):
            end += 1
        indented = textwrap.dedent("\n".join(lines[at + 1 : end])).strip("\n")
        if title is not None:
            out.append(f"**{title}**\n\n{section(title, indented)}")
            at = end
        else:
            out.append(literal(lines[at]))
            at += 1
    return "\n".join(out).strip()


def literal(line: str) -> str:
    """A line whose `<` and `*` are no Markdown, but for those in code."""
    parts = line.split("`")
    return "`".join(
        part if n % 2 else part.replace("<", "&lt;").replace("*", "\\*") for n, part in enumerate(parts)
    )


def section(title: str, text: str) -> str:
    """What is below a title: a doctest as code, entries `name: what` as a list, anything else as it is."""
    if title == "Example":
        return "\n\n".join(code(block) for block in text.split("\n\n") if block.strip()) + "\n"
    entries = re.split(r"\n(?=\S)", text)
    named = [re.match(r"([\w*,. ]+): (.*)", one, re.DOTALL) for one in entries]
    if title == "Returns" or not all(named):
        return text + "\n"
    rows = [f"- `{m[1]}`: " + " ".join(literal(m[2]).split()) for m in named if m]
    return "\n".join(rows) + "\n"
