"""The notebook runs from its first cell to its last, as Jupyter runs it."""

import json

import pytest
from example_modules import EXAMPLES

pytest.importorskip("torch", reason="the notebook is written in PyTorch")
nbclient = pytest.importorskip("nbclient", reason="it runs notebooks: pip install nbclient ipykernel")
nbformat = pytest.importorskip("nbformat")
pytest.importorskip("ipykernel", reason="it runs notebooks: pip install nbclient ipykernel")

NOTEBOOK = EXAMPLES / "notebook.ipynb"


@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own packages
def test_the_notebook_runs_to_its_end_and_shows_tables_and_a_model_that_learned(tmp_path, monkeypatch):
    for variable in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR", "TMPDIR"):
        monkeypatch.setenv(variable, str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbclient.NotebookClient(notebook, timeout=100, kernel_name="python3").execute(cwd=str(tmp_path))
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = [output.data for output in outputs if output.output_type == "execute_result"]
    before, after = [data["text/html"] for data in shown if "text/html" in data]
    assert "<td>movies</td><td>400</td>" in before
    assert after.count("frozen") > before.count("frozen")
    said = " ".join(" ".join(data["text/plain"] for data in shown).split())
    for text in (
        "(400, (400, 8), 0, array",
        "rows that exist: 400 of 400",
        "['movies.npy', 'users.safetensors']",
    ):
        assert text in said, said


def test_it_is_kept_without_what_it_printed_and_says_what_to_install():
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert "pip install 'rowloom[torch]'" in "".join(cells[0]["source"])
    assert not [cell for cell in cells if cell.get("outputs") or cell.get("execution_count")]
