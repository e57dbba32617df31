"""An example says which extra it needs: in its first lines, and when that is missing."""

import ast
import importlib.metadata
import re
import sys

import pytest
from example_modules import EXAMPLES, example

NEEDED = {
    "collection_torch": "torch",
    "collection_keras": "keras",
    "dlrm_torch": "torch",
    "resume_torch": "torch",
    "two_tower_keras": "keras",
    "skipgram_jax": "jax",
    "wide_and_deep": "",
}


def test_every_example_is_listed_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(NEEDED)


@pytest.mark.parametrize("name", NEEDED)
def test_its_docstring_has_the_command_that_installs_what_it_needs(name) -> None:
    extras = importlib.metadata.metadata("rowloom").get_all("Provides-Extra") or []
    doc = ast.get_docstring(ast.parse((EXAMPLES / f"{name}.py").read_text())) or ""
    (command,) = re.findall(r"pip install '?rowloom(?:\[([\w,]+)\])?", doc)
    named = command.split(",") if command else []
    assert set(named) <= set(extras)
    assert (NEEDED[name] in named) if NEEDED[name] else not named


@pytest.mark.parametrize("name", [name for name, extra in NEEDED.items() if extra])
def test_without_its_framework_it_ends_with_the_command_that_installs_it(name, monkeypatch) -> None:
    extra = NEEDED[name]
    monkeypatch.setitem(sys.modules, extra, None)
    for module in [one for one in sys.modules if one.startswith(f"rowloom.client.layers_{extra}")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(ModuleNotFoundError, match=rf"pip install 'rowloom\[{extra}"):
        example(name)
