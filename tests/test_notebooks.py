"""Every notebook in docs/ runs from top to bottom in a fresh kernel, and shows what it says.

The kernel is this interpreter's, whatever kernels are installed; it works in an empty folder.
"""

import json
import os
import re
import sys
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat", reason="notebooks need the extra `dev`: nbformat")
nbclient = pytest.importorskip("nbclient", reason="notebooks need the extra `dev`: nbclient")
pytest.importorskip("ipykernel", reason="notebooks need the extra `dev`: ipykernel")

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SECONDS = 300  # of one cell, on a busy machine


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Run a notebook; its cells come back with what they put out."""
    kernel = tmp_path / "jupyter" / "kernels" / "python3"
    kernel.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": argv, "display_name": "Python 3", "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    work = tmp_path / "work"
    work.mkdir()
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(name):
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        client = nbclient.NotebookClient(
            notebook, timeout=SECONDS, kernel_name="python3",
            resources={"metadata": {"path": str(work)}},
        )  # fmt: skip
        client.execute()
        return Ran(client, work)

    return run


class Ran:
    """A notebook that was run."""

    def __init__(self, client, folder):
        self.folder = folder
        self.cells = [cell for cell in client.nb.cells if cell.cell_type == "code"]
        for kind in ("Warning", "Traceback"):
            assert kind not in self.errors()

    def outputs(self, source):
        """Of the one cell whose source has this text."""
        (cell,) = [cell for cell in self.cells if source in cell.source]
        return cell.outputs

    def text(self, source):
        """What the cell prints, and its value as text."""
        outputs = self.outputs(source)
        printed = [o.text for o in outputs if o.output_type == "stream" and o.name == "stdout"]
        return "".join([*printed, *(o.data["text/plain"] for o in outputs if "data" in o)])

    def shown(self, source, kind):
        """The cell's value as a MIME type."""
        (output,) = [o for o in self.outputs(source) if "data" in o]
        return output.data[kind]

    def errors(self):
        outputs = [o for cell in self.cells for o in cell.outputs if o.output_type == "stream"]
        return "".join(o.text for o in outputs if o.name == "stderr")


def share(text):
    """The first share of an evaluation, of means."""
    return float(re.search(r"faithfulness \(of means\) (-?[\d.]+)%", text)[1])


def test_files_hold_no_output_and_are_stable():
    assert [path.stem for path in NOTEBOOKS] == ["induction", "ioi_smollm2", "own_model_and_task"]
    for path in NOTEBOOKS:
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        for number, cell in enumerate(notebook.cells, 1):
            assert cell.id == f"cell-{number:02d}" and not cell.metadata
            if cell.cell_type == "code":
                assert not cell.outputs and cell.execution_count is None
        assert notebook.metadata.kernelspec.name == "python3"
        written = nbformat.writes(notebook, version=nbformat.NO_CONVERT)
        assert path.read_text(encoding="utf-8") == written.rstrip("\n") + "\n"


@pytest.mark.slow
def test_induction(execute):
    ran = execute("induction")
    drawn = ran.shown("circuit = found.circuit", "text/html")
    assert drawn.startswith("<iframe") and 'sandbox="allow-scripts"' in drawn
    assert "previous token" in ran.text('head["candidates"]')
    assert share(ran.text("fresh = task.fresh(100)")) > 95
    assert share(ran.text('ablation="resample"')) > 90
    assert share(ran.text("both.evaluate")) > 90
    assert share(ran.text("without(")) < 20
    assert "srcdoc" in ran.shown("cd.validate", "text/html")
    assert "'mean equivalence': True" in ran.text("checked.verdicts")
    assert "<table>" in ran.shown("cd.compare", "text/html")
    assert ran.shown("compared.figure()", "image/png")
    assert (ran.folder / "induction-run" / "circuit.json").is_file()


@pytest.mark.slow
def test_own_model_and_task(execute):
    ran = execute("own_model_and_task")
    assert float(re.search(r"loss ([\d.]+)", ran.text("optimizer ="))[1]) < 0.1
    shown = ran.shown("cd.discover", "text/html")
    assert "<table>" in shown and "<iframe" in shown
    assert share(ran.text("task.fresh(50)")) > 80
    assert "LeaveOneOut" in ran.text("cd.compare")
    assert "first-again" in ran.text("cd.Circuit.load")
    assert (ran.folder / "first-again.json").is_file()


@pytest.mark.slow
@pytest.mark.smollm2
def test_ioi_smollm2(execute, smollm2):
    ran = execute("ioi_smollm2")
    shown = ran.shown("cd.discover", "text/html")
    assert "<table>" in shown and "<iframe" in shown
    roles = ran.text("if roles:")
    assert "mover" in roles and "S-inhibition" in roles
    for evaluated in ("twin = circuit", "other = circuit"):
        assert 15 < share(ran.text(evaluated)) < 60  # "about a third", "a part of it"
    grown = [float(x) for x in re.findall(r"(-?\d+)% of the logit", ran.text("top_n"))]
    assert len(grown) == 3 and grown == sorted(grown) and grown[-1] > 60
