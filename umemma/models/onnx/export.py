"""A trained model -> ONNX files, checked against PyTorch for every subset of its modalities.

Each encoder is a file, since an absent modality needs none. The fusion is another file: it holds
the heads with the rule for absent modalities, or another fusion of the field, and the temperature
and bias of every subset, which it looks up by `present`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from umemma.errors import UserError
from umemma.evaluation.regression import gaussian
from umemma.models import predictor
from umemma.models.fusions import check_exports
from umemma.models.late_fusion import fuse
from umemma.models.onnx import check
from umemma.models.onnx.recipe import (
    DESCRIPTION,
    FUSION,
    describe_export,
    name_encoder_file,
    name_outputs,
)
from umemma.models.predictor import Predictor
from umemma.models.saved_model import WEIGHTS
from umemma.system.files import new_folder, sha256, write_json

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export_onnx(folder: Path, out: Path, trust: bool = False) -> str:
    """Write `out` and return how close the results are to PyTorch's.

    UserError for an encoder or a fusion that cannot be exported, for results that differ from
    PyTorch's, and where `out` holds something else. Then nothing is written.
    """
    _require_packages()
    _check_out(out)
    model = predictor.load(folder, trust, "cpu")
    check_exports(model.model.fusion, str(folder))
    model.model.precision = torch.float32
    inputs = check.make_example_inputs(model)
    try:
        with new_folder(out) as temporary:
            for m, encoder in model.model.encoders.items():
                path = temporary / name_encoder_file(m)
                _export_module(
                    encoder, {"input": inputs[m]}, ["features"], path, f"the {m} encoder"
                )
            _export_fusion(model, temporary / FUSION)
            agreement = check.compare_with_pytorch(model, inputs, temporary)
            description = describe_export(model, inputs, temporary)
            description["weights_sha256"] = sha256(folder / WEIGHTS)
            write_json(temporary / DESCRIPTION, description)
    except OSError as error:
        what = f"cannot write: {error.strerror or error}"
        raise UserError(what, str(out), "Write elsewhere.") from error
    return agreement


def _require_packages() -> None:
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            hint = "Run: pip install -c constraints.txt -e '.[onnx]'"
            raise UserError(f"{name} is not installed", "umemma export", hint) from None


def _check_out(out: Path) -> None:
    """UserError unless `out` is a new folder, an empty one or an older export."""
    if not out.exists():
        return
    if out.is_dir():
        is_export = (out / DESCRIPTION).is_file()
        is_empty = not any(out.iterdir())
        if is_export or is_empty:
            return
    what = "holds something other than an export"
    raise UserError(what, f"--out {out}", "Name another folder.", usage=True)


class Fusion(nn.Module):
    """(B, D_m) features of each modality, in order, and present (B, M) bool -> two (B, C) tensors.

    They are the calibrated logits and the probabilities; in regression the (B, T) means and
    standard deviations, in the units of the targets. The features of an absent modality may be
    anything. Where nothing is present both are NaN.
    """

    bits: Tensor
    temperature: Tensor
    bias: Tensor
    floor: Tensor
    target_mean: Tensor
    target_std: Tensor

    def __init__(self, model: Predictor) -> None:
        super().__init__()
        self.heads = model.model.heads
        self.fusion = model.model.fusion
        self.bound = model.model.bound
        self.modalities = model.modalities
        self.task = model.task
        self.absent = model.model.absent
        blanks = {m: model.model.get_buffer(f"blank_{m}") for m in model.modalities}
        present = torch.ones(1, len(blanks), dtype=torch.bool)
        with torch.no_grad():
            _, absent = model.model.encode(blanks, present)
        for m in model.modalities:
            self.register_buffer(f"absent_{m}", absent[m].detach().clone())
        self.register_buffer("bits", 2 ** torch.arange(len(model.modalities)))
        self.register_buffer("temperature", torch.from_numpy(model.temperature).float())
        self.register_buffer("bias", torch.from_numpy(model.bias).float())
        # Of a regression; see umemma/evaluation/regression/gaussian.py.
        scales = model.info.scales
        has_bias = self.bias.any(1, keepdim=True)
        self.register_buffer("floor", torch.where(has_bias, gaussian.FLOOR, 0.0))
        self.register_buffer("target_mean", torch.tensor([scale.mean for scale in scales]))
        self.register_buffer("target_std", torch.tensor([scale.std for scale in scales]))

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *features, present = inputs
        by_modality = dict(zip(self.modalities, features, strict=True))
        absent = {m: self.get_buffer(f"absent_{m}") for m in self.modalities}
        if self.fusion is None:
            logits = fuse(self.heads, by_modality, absent, present, self.absent, self.bound)
        else:
            logits = self.bound(self.fusion(by_modality, present, present))
        row = (present.long() * self.bits).sum(1)
        if self.task == "regression":
            return self._restore_units(logits, row)
        logits = logits / self.temperature[row] + self.bias[row]
        if self.task == "multiclass":
            return logits, logits.softmax(1)
        return logits, logits.sigmoid()

    def _restore_units(self, outputs: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        a, b = outputs.chunk(2, 1)
        precision = functional.softplus(b, beta=gaussian.SHARPNESS) + gaussian.TINY
        natural = torch.cat([a, precision], 1) / self.temperature[row] + self.bias[row]
        a, precision = natural.chunk(2, 1)
        precision = torch.maximum(precision, self.floor[row])
        mean = self.target_mean + self.target_std * a / precision
        return mean, self.target_std * precision.rsqrt()


def _export_fusion(model: Predictor, path: Path) -> None:
    inputs: dict[str, Tensor] = {}
    for m, width in model.model.dims.items():
        inputs[f"features_{m}"] = torch.zeros(check.SAMPLES, width)
    inputs["present"] = torch.ones(check.SAMPLES, len(inputs), dtype=torch.bool)
    _export_module(Fusion(model), inputs, name_outputs(model.task), path, "the fusion")


def _export_module(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: Sequence[str],
    path: Path,
    title: str,
) -> None:
    """Write one .onnx file of a module.

    The first dimension of all inputs and outputs is B, which may be any number. UserError, with
    `title`, where the module cannot be exported.
    """
    batch = torch.export.Dim("batch")
    shapes: Any = tuple({0: batch} for _ in inputs)
    if isinstance(module, Fusion):  # its inputs are one parameter, *inputs
        shapes = (shapes,)
    try:
        with _silence_exporter():
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=shapes,
                verbose=False,
            )
            assert program is not None
            for node in program.model.graph.all_nodes():
                node.metadata_props.clear()  # the paths of the source files on this machine
            program.save(path)
    except torch.onnx.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__:
            cause = cause.__cause__
        reason = str(cause).strip().partition("\n")[0]
        what = f"{title} can't be exported: {type(cause).__name__}: {reason}"
        hint = "Python code that reads the values of a tensor has no ONNX; see docs/prediction.md."
        raise UserError(what, "umemma export", hint) from error


@contextlib.contextmanager
def _silence_exporter() -> Iterator[None]:
    """Suppress what torch's exporter tells its developers."""
    level_before = logging.root.manager.disable
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(level_before)
