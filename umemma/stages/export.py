"""export: a trained model -> ONNX files in a folder."""

from __future__ import annotations

from pathlib import Path

from umemma.models.onnx import export


def run(folder: Path, out: Path, trust: bool = False) -> str:
    """Write `out` and return how close it is to PyTorch; see `umemma.models.onnx.export`."""
    return export.export_onnx(folder, out, trust)
