"""The panels of the dashboard for Grafana, drawn by Grafana's own components from what a real Prometheus answers."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

from browser import Browser
from prometheus import BOARD, EVERY_S, Prometheus
from waiting import until

SOURCES = Path(__file__).parent / "grafana"
FOLDER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rowloom-grafana"
"""Where they are built, with what npm fetches: tests read every file of the repository, and archives have them all."""
BUILD = FOLDER / "build"
POINTS = 600
"""What Grafana asks for in a panel of this width."""


def missing_for_panels() -> str:
    """In words, what is not installed; empty: nothing."""
    for name in ("prometheus", "npm"):
        if shutil.which(name) is None:
            return f"{name} is not installed, so the dashboard is not drawn"
    return ""


def built() -> str:
    """Grafana's components are fetched the first time. In words, why they cannot be had; empty: they are there.

    The dashboard is held to Grafana's own schema meanwhile: what differs is printed.
    """
    shutil.copytree(SOURCES, FOLDER, dirs_exist_ok=True)
    if not _same(FOLDER / "package.json", FOLDER / "node_modules/fetched.json"):
        print(f"fetching Grafana's components to {FOLDER}: 650 MB, about a minute", flush=True)
        if _npm("install", "--no-audit", "--no-fund", "--no-package-lock"):
            return "Grafana's components cannot be fetched from npm, so the dashboard is not drawn"
        shutil.copy(FOLDER / "package.json", FOLDER / "node_modules/fetched.json")
    if _npm("run", "--silent", "build"):
        return "tests/browser/grafana/panels.tsx cannot be built, so the dashboard is not drawn"
    text = f"import type {{ Board }} from '../schema';\nexport const board: Board = {BOARD.read_text()};\n"
    (BUILD / "board.ts").write_text(text)
    if _npm("run", "--silent", "check"):
        print("dashboard: it is not as Grafana's schema wants it")
    return ""


def draw_panels(prometheus: Prometheus, page: Browser, out: Path, name: str, began: float) -> None:
    """All panels since a time, light and dark, in two files; one without a series is said to be empty."""
    board, end = json.loads(BOARD.read_text()), time.time()
    step = max(EVERY_S, int((end - began) / POINTS))
    rate = f"{max(step + EVERY_S, 4 * EVERY_S)}s"
    answers = []
    for panel in board["panels"]:
        answers.append(
            [
                prometheus.series(
                    target["expr"].replace("$__rate_interval", rate).replace("$cluster", "ads"),
                    end if target.get("instant") else began,
                    end,
                    step,
                )
                for target in panel["targets"]
            ]
        )
        if not any(answers[-1]):
            print(f"dashboard, {name}: the panel {panel['title']!r} is empty")
    given = {"board": board, "answers": answers, "from": began, "to": end, "step": step}
    (BUILD / "given.js").write_text(f"Object.assign(window, {json.dumps(given)});")
    here = page.run("location.href")
    for dark in (False, True):
        page.shape(1440, dark=dark)
        page.open((FOLDER / "panels.html").as_uri())
        until(lambda: page.run("document.querySelectorAll('canvas').length"), 60)
        page.picture(out / f"dashboard-{name}-{'dark' if dark else 'light'}.png")
    page.open(here)


def _npm(*arguments: str) -> int:
    return subprocess.run(["npm", *arguments], cwd=FOLDER, check=False).returncode


def _same(one: Path, other: Path) -> bool:
    return other.exists() and one.read_bytes() == other.read_bytes()
