"""The site is built without a warning, and asks nobody else for anything."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(https?:)?//|<link\b[^>]*\bhref=\"?(https?:)?//"
)
SHOWN = ["reference/client.html", "reference/cli.html", "reference/errors.html", "examples/dlrm_torch.html"]


@pytest.mark.timeout(120)
def test_the_site_is_built_without_a_broken_link_or_anchor(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -e '.[docs]'")
    pytest.importorskip("material", reason="mkdocs-material is not installed: pip install -e '.[docs]'")
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    missing = [name for name in SHOWN if not (tmp_path / name).exists()]
    assert not missing
    for name in ("layers_torch", "errors"):  # of a link to the file that the page is made from
        page = "torch" if name == "layers_torch" else "numpy"
        assert f'href="../reference/{name}.html"' in (tmp_path / f"howto/{page}.html").read_text(
            encoding="utf-8"
        )
    assert "Million rows a second" in (tmp_path / "benchmarks.html").read_text(encoding="utf-8")
    for page in tmp_path.rglob("*.html"):
        found = LOADED.search(page.read_text(encoding="utf-8"))
        assert not found, (
            f"{page.relative_to(tmp_path)} loads something from elsewhere: {found[0] if found else ''}"
        )
