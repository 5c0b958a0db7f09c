"""export: a trained model -> ONNX files in a folder."""

from __future__ import annotations

from pathlib import Path

from umemma.models import onnx


def run(folder: Path, out: Path, trust: bool = False) -> str:
    """Write `out` and say how far it is from PyTorch; see `umemma.models.onnx.write`."""
    return onnx.write(folder, out, trust)
