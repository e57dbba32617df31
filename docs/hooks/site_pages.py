"""What `mkdocs build` does beside rendering: pages made from the code, and links that leave docs/."""

from __future__ import annotations

import posixpath
import re
from typing import Any

from api_page import FACES, ROOT, api_page
from command_pages import cli_page, config_page
from contract_pages import errors_page, snapshot_page, source_page, wire_page
from mkdocs.structure.files import File, Files

PROJECT = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"}
FACES_AT = {path: f"reference/{module.rpartition('.')[2]}.md" for module, path in FACES.items()}
DESCRIBED = FACES_AT | {
    "proto/errors.py": "reference/errors.md"
}  # sources that a page of the reference is made from
MEASURED = "<!-- measured -->"  # in docs/benchmarks.md; figures have one place, the README


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are made."""
    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    return files


def pages() -> dict[str, str]:
    """Every page that is made, by its place in the site."""
    made = {FACES_AT[path]: api_page(module) for module, path in FACES.items()}
    made |= {
        "reference/cli.md": cli_page(),
        "reference/config.md": config_page(),
        "reference/errors.md": errors_page(),
        "reference/messages.md": wire_page(),
        "reference/manifest.md": snapshot_page(),
    }
    made |= {
        f"examples/{path.stem}.md": source_page(path) for path in sorted((ROOT / "examples").glob("*.py"))
    }
    made |= {f"project/{name}": (ROOT / name).read_text(encoding="utf-8") for name in PROJECT}
    return made


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links to files of the repository lead to their pages; to sources that have none they become plain text."""
    here = page.file.src_uri
    markdown = markdown.replace(MEASURED, measured())
    in_repository = here.removeprefix("project/") if here.startswith("project/") else f"docs/{here}"

    def moved(found: re.Match[str]) -> str:
        text, target, anchor = found[1], found[2], found[3] or ""
        if "://" in target or (here.startswith(("reference/", "examples/"))):
            return found[0]
        place = posixpath.normpath(posixpath.join(posixpath.dirname(in_repository), target))
        to = site_place(place)
        return (
            text
            if to is None
            else f"[{text}]({posixpath.relpath(to, posixpath.dirname(here) or '.')}{anchor})"
        )

    return re.sub(r"\[([^\]\[]*)\]\(([^)#\s]+)(#[^)\s]*)?\)", moved, markdown)


def measured() -> str:
    """The figures of the README, as they would stand in docs/."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"(?ms)^## Measured\n.*?(?=^## )", readme)
    return found[0].replace("](docs/", "](") if found else ""


def site_place(place: str) -> str | None:
    """Where on the site a file of the repository is; None: it is no page."""
    if place.startswith("docs/"):
        return place.removeprefix("docs/")
    if place in DESCRIBED:
        return DESCRIBED[place]
    if place in PROJECT:
        return f"project/{place}"
    if place.startswith("examples/") and place.endswith(".py"):
        return place.removesuffix(".py") + ".md"
    return None if (ROOT / place).exists() else place  # what is not there is reported as a broken link
