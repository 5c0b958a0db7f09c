"""The notebook of the Python API runs, without Jupyter, and is stored without outputs."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from toys.project import ROOT, quick

from umemma.stages import finetune

NOTEBOOK = json.loads((ROOT / "examples" / "python_api.ipynb").read_text(encoding="utf-8"))
CODE = [cell for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]


def test_it_has_no_outputs():
    assert NOTEBOOK["nbformat"] == 4
    for cell in CODE:
        assert cell["outputs"] == []
        assert cell["execution_count"] is None


def test_it_shows_the_public_functions():
    text = "".join("".join(cell["source"]) for cell in CODE)
    names = ("umemma.load(", "model.predict(", "predict_many(", "explain(", "umemma.audit(")
    assert all(name in text for name in names)


@pytest.mark.slow
def test_every_cell_runs(project, monkeypatch, capsys):
    finetune.run(quick())
    Path("examples").mkdir()
    monkeypatch.chdir("examples")
    names: dict[str, object] = {"__name__": "notebook"}
    for number, cell in enumerate(CODE):
        exec(compile("".join(cell["source"]), f"cell {number}", "exec"), names)
    assert (project / "results/audit/halves/report.html").is_file()
    assert names["answer"].broken == ("audio: file is missing",)
    # The contributions are those of the answer that was given.
    explanation = names["explanation"]
    assert names["total"] == pytest.approx(math.log(explanation.prediction.probability), abs=1e-6)
    assert "Failure(reason='audio: file is missing')" in capsys.readouterr().out
