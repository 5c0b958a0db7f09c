"""A trained model -> ONNX, checked against PyTorch for every subset of its modalities.

An encoder is a file, as a modality that isn't there needs none; what the ensemble makes of the features is another. It
holds the rule of absence, the head, and the temperature and bias of every subset, which it looks up by `present`.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from umemma import modalities
from umemma.errors import UserError
from umemma.evaluation.calibration import probabilities
from umemma.missing import patterns
from umemma.models import predictor
from umemma.models.late_fusion import fuse
from umemma.models.predictor import Predictor
from umemma.system.files import new_folder, sha256, write_json
from umemma.types import InputSpec, Media, Packing, Sound, TextInput, joined

CLOSE = 1e-4  # of the largest logit: what ONNX may differ from PyTorch
SAMPLES = 3
FUSION, ABOUT = "fusion.onnx", "export.json"


def write(folder: Path, out: Path, trust: bool = False) -> str:
    """Write `out` and say how far it is from PyTorch. UserError for an encoder that can't be exported, for results that
    are not PyTorch's, and where `out` holds something else; then nothing is written."""
    _require()
    if out.exists() and not (out.is_dir() and ((out / ABOUT).is_file() or not any(out.iterdir()))):
        raise UserError(
            "holds something else than an export",
            f"--out {out}",
            "Name another folder.",
            usage=True,
        )
    model = predictor.load(folder, trust, "cpu")
    model.model.precision = torch.float32
    inputs = {m: _inputs(m, spec, model.about.media) for m, spec in model.specs.items()}
    fusion = Fusion(model)
    try:
        with new_folder(out) as aside:
            for m, encoder in model.model.encoders.items():
                _export(
                    encoder,
                    (inputs[m],),
                    ["input"],
                    ["features"],
                    aside / _file(m),
                    f"the {m} encoder",
                )
            features = tuple(torch.zeros(SAMPLES, width) for width in model.model.dims.values())
            present = torch.ones(SAMPLES, len(features), dtype=torch.bool)
            names = [*(f"features_{m}" for m in model.modalities), "present"]
            _export(
                fusion,
                (*features, present),
                names,
                ["logits", "probabilities"],
                aside / FUSION,
                "the fusion",
            )
            worst = _compare(model, inputs, aside)
            recipes = {
                m: _recipe(m, spec, model.about.media, aside) for m, spec in model.specs.items()
            }
            write_json(
                aside / ABOUT, _about(model, inputs, recipes, sha256(folder / "model.safetensors"))
            )
    except OSError as error:
        raise UserError(
            f"can't be written: {error.strerror or error}", str(out), "Write elsewhere."
        ) from error
    return f"{len(patterns(model.modalities))} subsets differ from PyTorch by {worst:.1e} of the largest logit at most"


class Fusion(nn.Module):
    """(B, D_m) features of each modality, in order, and present (B, M) bool -> calibrated logits and probabilities, (B, C).

    What stands in the features of an absent modality makes no difference. Where nothing is present both are NaN.
    """

    bits: Tensor
    temperature: Tensor
    bias: Tensor

    def __init__(self, model: Predictor) -> None:
        super().__init__()
        self.heads, self.modalities, self.task = model.model.heads, model.modalities, model.task
        self.absent = model.model.absent
        with (
            torch.no_grad()
        ):  # of the blank inputs: with absent = blank their features are what stands in
            blanks = {m: model.model.get_buffer(f"blank_{m}") for m in model.modalities}
            _, absent = model.model.encode(blanks, torch.ones(1, len(blanks), dtype=torch.bool))
        for m in model.modalities:
            self.register_buffer(f"absent_{m}", absent[m].detach().clone())
        self.register_buffer("bits", 2 ** torch.arange(len(model.modalities)))
        self.register_buffer("temperature", torch.from_numpy(model.temperature).float())
        self.register_buffer("bias", torch.from_numpy(model.bias).float())

    def forward(self, *inputs: Tensor) -> tuple[Tensor, Tensor]:
        *features, present = inputs
        absent = {m: self.get_buffer(f"absent_{m}") for m in self.modalities}
        logits = fuse(
            self.heads,
            dict(zip(self.modalities, features, strict=True)),
            absent,
            present,
            self.absent,
        )
        row = (present.long() * self.bits).sum(1)
        logits = logits / self.temperature[row] + self.bias[row]
        return logits, logits.softmax(1) if self.task == "multiclass" else logits.sigmoid()


def _file(modality: str) -> str:
    return f"encoder-{modality}.onnx"


def _require() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError:
            hint = "Run: pip install -c constraints.txt -e '.[onnx]'"
            raise UserError(f"{name} is not installed", "umemma export", hint) from None


def _export(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    names: list[str],
    results: list[str],
    path: Path,
    what: str,
) -> None:
    """One .onnx of a module whose inputs and outputs all begin with B, which may be any number."""
    batch = torch.export.Dim("batch")
    shapes: Any = tuple({0: batch} for _ in inputs)
    try:
        with _quiet():
            program = torch.onnx.export(
                module.eval(),
                inputs,
                dynamo=True,
                input_names=names,
                output_names=results,
                dynamic_shapes=(shapes,) if isinstance(module, Fusion) else shapes,
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
        hint = "Python that looks at the values in a tensor can't be; see docs/predict.md."
        raise UserError(
            f"{what} can't be exported: {type(cause).__name__}: {reason}", "umemma export", hint
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What torch's exporter has to say to those who work on it."""
    before = logging.root.manager.disable
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
            logging.disable(before)


# Does it give what PyTorch gives? -------------------------------------------------------------------------------------


def _compare(model: Predictor, inputs: Mapping[str, Tensor], folder: Path) -> float:
    """The largest difference of logits or probabilities over all subsets. UserError for one over CLOSE."""
    features = {}
    for m, x in inputs.items():
        both = [_answers(folder / _file(m), {"input": part.numpy()})[0] for part in (x[:1], x[1:])]
        features[f"features_{m}"] = np.concatenate(both)
    worst = 0.0
    for pattern in patterns(model.modalities):
        there = np.array([[m in pattern for m in model.modalities]]).repeat(SAMPLES, 0)
        nothing = {
            f"features_{m}": np.full_like(features[f"features_{m}"], np.nan)
            for m in set(inputs) - set(pattern)
        }
        found = _answers(folder / FUSION, {**features, **nothing, "present": there})
        logits = model.logits(inputs, torch.from_numpy(there))
        for ours, theirs in zip((logits, probabilities(logits, model.task)), found, strict=True):
            differs = float(np.abs(ours - theirs).max() / np.abs(ours).max())
            worst = max(worst, differs)
            if not differs <= CLOSE:  # NaN isn't
                what = (
                    f"ONNX differs from PyTorch by {differs:.1e} where {joined(pattern)} is there"
                )
                raise UserError(
                    what,
                    "umemma export",
                    "Nothing was written; an encoder does what ONNX can't say.",
                )
    return worst


def _answers(path: Path, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def _inputs(modality: str, spec: InputSpec, packing: Packing) -> Tensor:
    """(SAMPLES, ...) as the encoder sees it: made-up media that went the way of all media."""
    family = modalities.get(modality)
    compact = []
    for i in range(SAMPLES):
        (data,) = modalities.pack(
            {modality: _made(modality, np.random.default_rng(i))}, packing
        ).values()
        compact.append(family.decode(data, spec))
    return family.finish(torch.stack(compact), spec)


def _made(modality: str, chance: np.random.Generator) -> Media:
    if modality == "text":
        return " ".join(
            chance.choice(["a", "toad", "sings", "by", "the", "pond"], int(chance.integers(3, 30)))
        )
    if modality == "audio":
        return Sound(chance.uniform(-0.5, 0.5, 24000).astype(np.float32), 16000)
    pixels = chance.integers(0, 256, (4, 64, 64, 3), dtype=np.uint8)
    if modality == "video":
        from umemma.modalities.image import to_jpeg

        return [to_jpeg(frame, 90) for frame in pixels]
    return pixels[0]


def _recipe(modality: str, spec: InputSpec, packing: Packing, folder: Path) -> dict[str, Any]:
    """How media become the input; the files of a text's tokenizer are written into `folder`."""
    made_as = {"kind": type(spec).__name__, **spec.model_dump(mode="json")}
    made_as |= modalities.get(modality).recipe(spec, packing)
    name = f"tokenizer-{modality}"
    if isinstance(spec, TextInput) and modalities.get(modality).write_tokenizer(
        spec, folder / name
    ):
        made_as["tokenizer_files"] = name
    return made_as


def _about(
    model: Predictor,
    inputs: Mapping[str, Tensor],
    recipes: Mapping[str, Mapping[str, Any]],
    weights: str,
) -> dict[str, Any]:
    """What whoever feeds the files has to know."""
    encoders = {
        m: {
            "file": _file(m),
            "input": {
                "name": "input",
                "shape": ["batch", *x.shape[1:]],
                "type": str(x.dtype).removeprefix("torch."),
            },
            "output": {"name": "features", "shape": ["batch", model.model.dims[m]]},
            "made_as": recipes[m],
        }
        for m, x in inputs.items()
    }
    fusion = {
        "file": FUSION,
        "inputs": [*(f"features_{m}" for m in model.modalities), "present"],
        "present": {"shape": ["batch", len(encoders)], "type": "bool", "columns": model.modalities},
        "absent": "where present is false the features may be anything of the right shape, NaN too",
        "outputs": ["logits", "probabilities"],
    }
    about = {
        "classes": model.classes,
        "task": model.task,
        "media": model.about.media.model_dump(mode="json"),
    }
    return about | {"encoders": encoders, "fusion": fusion, "weights_sha256": weights}
