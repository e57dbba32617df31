"""Every Python snippet of docs/ runs, page by page, as a reader would type it."""

import ast
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from free_ports import free_port

DOCS = Path(__file__).parents[2] / "docs"
# tests/examples/test_resume_page.py kills the one in the middle, tests/conformance/test_feature_columns.py compares.
ELSEWHERE = {"resume.md", "feature_columns.md"}
PLAIN = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TITLED = re.compile(r"^```python title=[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = {str(path.relative_to(DOCS)): path.read_text(encoding="utf-8") for path in sorted(DOCS.rglob("*.md"))}
RUN = [page for page, text in PAGES.items() if PLAIN.search(text) and page not in ELSEWHERE]

# What pages take for granted: a cluster, its address, a client, two tables, and a batch that is also four bags.
BEFORE = """
import pathlib
import numpy as np
import rowloom.client
from rowloom.client import *
from rowloom.deploy import address_of, local_cluster

cluster = local_cluster(shards=2, storage=pathlib.Path("storage").resolve())
address = cluster.address
client = connect(address)
users = client.create_table(TableSpec("users", 1_000_000, dim=64, optimizer=Adagrad(lr=0.05)))
items = client.create_table(TableSpec("items", 1_000_000, dim=64, optimizer=Adagrad(lr=0.05)))
ids, offsets, grads = np.array([7, 42, 7, 3]), np.arange(4), np.ones((4, 64), np.float32)
u = i = next_ids = ids
ids_of_each_bag = np.array([[1, 2], [3, 4]])
"""
PAGE = {
    "wire.md": 'client.drop_table("users")\n',  # it makes one of its own
    "snapshot_format.md": 'users.push(ids, grads)\npathlib.Path(client.snapshot().path).rename("snapshot")\n',
}
AFTER = "\nclient.close()\ncluster.close()\n"


def needed(text: str) -> set[str]:
    """The frameworks that a page imports."""
    return set(re.findall(r"^import (torch|keras|jax)\b", "".join(PLAIN.findall(text)), re.MULTILINE))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", RUN)
def test_every_snippet_of_the_page_runs(page, tmp_path):
    frameworks = needed(PAGES[page])
    if frameworks & {"torch", "keras"}:  # Keras runs on it here: it starts faster than TensorFlow
        pytest.importorskip("torch", reason="the page is for PyTorch, or for Keras on it")
    if "keras" in frameworks:
        pytest.importorskip("keras", reason="the page is for Keras")
    if "jax" in frameworks:
        pytest.importorskip("jax", reason="the page is for JAX")
    script = tmp_path / "page.py"
    script.write_text("\n".join([BEFORE, PAGE.get(page, ""), *PLAIN.findall(PAGES[page]), AFTER]))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    environment |= {"KERAS_BACKEND": "torch", "RANK": "0", "WORLD_SIZE": "1"}  # as torchrun says it
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port(random.Random()))}
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=110)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [page for page, text in PAGES.items() if TITLED.search(text)])
def test_what_is_shown_of_other_systems_is_python(page):
    for snippet in TITLED.findall(PAGES[page]):
        ast.parse(snippet)
