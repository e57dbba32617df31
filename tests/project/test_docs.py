"""README and docs/ keep their word: links lead somewhere, configs and commands are ours, figures are the code's."""

import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from rowloom.client import FTRL, SGD, Adagrad, Adam, RowwiseAdagrad, TableSpec
from rowloom.deploy.cli import app
from rowloom.deploy.config.config import DeployConfig, parse
from rowloom.deploy.config.memory import memory, row_bytes

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"))]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
MADE = ("reference/", "examples/", "project/")  # of the site: made from other files when it is built


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def fences(path: Path, language: str) -> list[str]:
    """The snippets of a page in a language, with or without a title."""
    return re.findall(
        rf"^```{language}(?: title=[^\n]*)?\n(.*?)^```$", text_of(path), re.MULTILINE | re.DOTALL
    )


def anchors(path: Path) -> set[str]:
    """What the site calls the headings of a page."""
    prose = re.sub(r"^```.*?^```$", "", text_of(path), flags=re.MULTILINE | re.DOTALL)
    return {slug(title) for title in re.findall(r"^#+ (.*)$", prose, re.MULTILINE)}


def slug(title: str) -> str:
    plain = unicodedata.normalize("NFKD", title).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def links(path: Path) -> list[tuple[str, str]]:
    """(file, anchor) of each local link; either may be empty."""
    found = re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]*))?\)", re.sub(r"`[^`\n]*`", "", text_of(path)))
    return [(file, anchor) for file, anchor in found if (file or anchor) and "://" not in file]


def in_nav(node: Any) -> list[str]:
    """The pages of the navigation, in a reader's order."""
    if isinstance(node, str):
        return [node]
    return [page for part in (node if isinstance(node, list) else node.values()) for page in in_nav(part)]


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_every_local_link_leads_to_a_file_and_a_heading(path):
    broken = []
    for file, anchor in links(path):
        target = (path.parent / file).resolve() if file else path
        # Also what the site makes: whoever reads a copy of the repository has no page of it, but what it is made from.
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{file}#{anchor}")
    assert not broken


def test_every_page_is_in_the_navigation_once_and_every_entry_is_a_page():
    listed = in_nav(SITE["nav"])
    assert len(listed) == len(set(listed))
    written = {str(path.relative_to(DOCS)) for path in PAGES}
    assert {page for page in listed if not page.startswith(MADE)} == written, "give it a line in mkdocs.yml"
    shown = {f"examples/{path.stem}.md" for path in (ROOT / "examples").glob("*.py")}
    assert {page for page in listed if page.startswith("examples/")} == shown, "give it a line in mkdocs.yml"


def test_the_site_asks_nobody_else_for_anything():
    assert SITE["theme"]["font"] is False
    assert "extra_javascript" not in SITE
    for path in PAGES:
        assert "```mermaid" not in text_of(path), f"{name_of(path)}: its script would come from elsewhere"


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_every_deploy_config_is_accepted(path):
    for snippet in fences(path, "yaml"):
        found = yaml.safe_load(snippet)
        if set(found) & set(DeployConfig.model_fields):
            parse(found)


def typed(path: Path) -> list[str]:
    """What follows `rowloom` in shell snippets, and in code between words."""
    text = text_of(path)
    lines = "".join(fences(path, "sh")).splitlines()
    found = [line.removeprefix("rowloom ") for line in lines if re.match(r"rowloom [a-z]", line)]
    return found + re.findall(r"`rowloom ([a-z][^`]*)`", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S))


@pytest.mark.parametrize("path", TEXTS, ids=name_of)
def test_every_command_and_option_exists(path):
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for line in typed(path):
        command, *rest = line.partition("  #")[0].split()
        assert command in commands, f"rowloom {line}"
        found = commands[command]
        while rest and rest[0] in getattr(found, "commands", {}):  # `secure` has commands of its own
            found = found.commands[rest.pop(0)]
        known = {option for parameter in found.params for option in parameter.opts} | {"--help"}
        used = {word.strip("[],").partition("=")[0] for word in rest if word.lstrip("[").startswith("-")}
        assert used <= known, f"rowloom {line}"


OPTIMIZERS = {rule.__name__: rule(lr=0.1) for rule in (SGD, Adagrad, Adam, RowwiseAdagrad, FTRL)}


def worked() -> list[list[str]]:
    """The cells of the worked table of docs/capacity.md."""
    rows = re.findall(r"^\| ([\d,]+ \|.*) \|$", text_of(DOCS / "capacity.md"), re.MULTILINE)
    return [[cell.strip(" `").replace(",", "") for cell in row.split("|")] for row in rows]


@pytest.mark.parametrize("cells", worked(), ids=lambda cells: cells[0])
def test_the_worked_capacities_are_those_of_plan(cells):
    rows, dim, optimizer, shards, bytes_a_row, bytes_a_shard = cells
    spec = TableSpec("t", int(rows), dim=int(dim), optimizer=OPTIMIZERS[optimizer])
    planned = memory(parse({"shards": int(shards), "tables": [spec]}))
    assert (row_bytes(spec), planned.bound_bytes) == (int(bytes_a_row), int(bytes_a_shard))


def test_the_slots_of_the_capacity_planner_are_those_of_the_optimizers():
    said = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", text_of(DOCS / "capacity.md"), re.MULTILINE))
    columns = {"0; with momentum `dim`": 0, "1": 1, "`dim`": 64, "2 `dim`": 128}
    assert {name: columns[text] for name, text in said.items()} == {
        name: sum(rule.slot_widths(64)) for name, rule in OPTIMIZERS.items()
    }
    assert sum(SGD(lr=0.1, momentum=0.9).slot_widths(64)) == 64
    assert len(worked()) >= 6
