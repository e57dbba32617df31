"""The reference of the command line and of the deploy config, from the code that reads them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
from collections.abc import Iterator
from typing import Any

import typer
from pydantic import BaseModel

from rowloom.client import TableSpec
from rowloom.deploy.cli import app
from rowloom.deploy.config.config import DeployConfig


def cli_page() -> str:
    """Every command with its arguments and options."""
    group = typer.main.get_command(app)
    about, _, codes = (app.info.help or "").partition("\b\n")
    parts = ["# Command line", about.strip(), f"```text\n{codes.strip()}\n```"]
    for name, command in sorted(each(group)):
        parts.append(f"## `rowloom {name}`")
        parts.append(escaped((command.help or "").replace("\b", "").strip()))
        parts.append(usage(name, command))
        parts.append(table(["option", "default", "what it does"], [row(p) for p in command.params]))
    return "\n\n".join(part for part in parts if part) + "\n"


def each(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its name, those of groups such as `secure` too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from each(command, f"{prefix}{name} ")
        else:
            yield prefix + name, command


def usage(name: str, command: Any) -> str:
    """How a command is typed."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    words = [(f"{p.name}" if p.required else f"[{p.name}]").upper() for p in arguments]
    return "```text\n" + " ".join(["rowloom", name, "[OPTIONS]", *words]) + "\n```"


def row(parameter: Any) -> list[str]:
    """One argument or option."""
    is_option = parameter.param_type_name == "option"
    name = ", ".join(parameter.opts) if is_option else parameter.name.upper()
    words = getattr(parameter, "show_default", None)
    default = words if isinstance(words, str) else parameter.default
    silent = default in (None, False) or callable(default)
    shown = "required" if parameter.required else "" if silent else f"`{default}`"
    return [f"`{name}`", shown, escaped(getattr(parameter, "help", None) or "")]


def config_page() -> str:
    """Every key of the deploy config, section by section, with its type, default and remark."""
    parts = [
        "# Config keys",
        "As `rowloom up` reads them. [deploy.yaml](../deploy.md) explains them, and says which can be changed live.",
    ]
    parts += ["## The cluster", table(["key", "type", "default", "remark"], keys(DeployConfig, ""))]
    for name, field in DeployConfig.model_fields.items():
        section = field.get_default(call_default_factory=True)
        if isinstance(section, BaseModel):
            rows = keys(type(section), f"{name}.")
            parts += [f"## `{name}`", (type(section).__doc__ or "").strip()]
            parts.append(table(["key", "type", "default", "remark"], rows))
    spec = TableSpec("x")
    rows = [
        [
            f"`tables[].{f.name}`",
            type_name(f.type),
            "required" if f.name == "name" else shown_default(getattr(spec, f.name)),
        ]
        for f in dataclasses.fields(TableSpec)
    ]
    parts += [
        "## `tables[]`",
        "The fields of `TableSpec`: [`rowloom.client`](client.md#tablespec) says what each is.",
    ]
    parts.append(table(["key", "type", "default"], rows))
    return "\n\n".join(parts) + "\n"


def keys(model: type[BaseModel], prefix: str) -> list[list[str]]:
    """The keys of one section that are no sections themselves."""
    remarks = attribute_docs(model)
    rows = []
    for name, field in model.model_fields.items():
        default = field.get_default(call_default_factory=True)
        if not isinstance(default, BaseModel):
            kind = type_name(model.__annotations__[name])
            rows.append([f"`{prefix}{name}`", kind, shown_default(default), escaped(remarks.get(name, ""))])
    return rows


def attribute_docs(model: type[BaseModel]) -> dict[str, str]:
    """The text that stands below each field in the source."""
    body = ast.parse(inspect.getsource(model)).body[0].body  # type: ignore[attr-defined]
    return {
        ast.unparse(field.target): " ".join(text.value.value.split())
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }


def type_name(annotation: Any) -> str:
    """A type in words of Python, without its validators."""
    text = str(annotation).replace("Whole", "int").replace("Number", "float").replace("Size", "int")
    text = re.sub(r"Annotated\[([^,]+),.*?\)\]", r"\1", text)
    return f"`{text}`".replace("|", "\\|")


def shown_default(default: Any) -> str:
    """A default as a config would say it."""
    return "none" if default is None else f"`{default}`"


def escaped(text: str) -> str:
    """A text that is a cell, or a paragraph, of Markdown."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ") if "\n\n" not in text else text


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table of Markdown; nothing if it has no rows."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) if rows else ""
