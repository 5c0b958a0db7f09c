"""check: tries the whole pipeline on made samples, and says what works on this machine.

Each stage is a process of its own command, as a user runs it, in a temporary folder.
"""

from __future__ import annotations

import csv
import importlib.metadata
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from rich.markup import escape

import umemma
from umemma.errors import UserError
from umemma.system import subprocesses
from umemma.system.cores import count_cores
from umemma.system.files import write_json
from umemma.system.log import make_progress, make_table, output
from umemma.system.signals import delay_stop_signals
from umemma.system.subprocesses import Command, Job

STAGES = (
    ("download", "manifest", "--from", "samples"),
    ("preprocess", "--workers", "1"),
    ("pretrain-unimodal",),
    ("finetune-ensemble",),
    ("evaluate",),
    ("predict", "--image", "samples/0.png"),  # without a sound
)
SPLITS = ("train", "train", "val", "test")
SAMPLES = 8  # per entry of SPLITS
SIDE = 16  # pixels
RATE = 8000  # Hz
SETTINGS = {
    "dataset": "manifest",
    "modalities": ["audio", "image"],
    "preprocess": {
        "options": {"columns": {"audio": "sound", "image": "picture"}, "split": "split"}
    },
    "encoders": {
        "audio": {"input": {"sample_rate": RATE, "seconds": 0.25, "mels": 16}},
        "image": {"input": {"size": SIDE, "channels": 1}},
    },
    "pretrain": {"epochs": 1, "batch_size": 8},
    "finetune": {"epochs": 1, "batch_size": 8},
    "evaluate": {"draws": 1, "bootstrap": 10},
    "machine": {"workers": 0, "cache_decoded": False},
}
LIBRARIES = ("torch", "torchvision", "torchaudio", "av", "numpy", "dvc", "webdataset")
CODECS = ("h264", "hevc", "vp9", "av1", "aac", "mp3", "opus", "flac", "vorbis")
# FFmpeg's decoders of a codec, where they are named otherwise: its own `av1` needs a GPU's help.
DECODERS = {"av1": ("libdav1d", "libaom-av1")}
# The packages of each extra, as in pyproject.toml.
EXTRAS = {
    "gdrive": ("gdown",),
    "gs": ("gcsfs",),
    "kaggle": ("kagglehub",),
    "lora": ("peft",),
    "mlflow": ("mlflow-skinny", "sqlalchemy", "alembic"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "ray": ("ray",),
    "s3": ("s3fs",),
    "serve": ("fastapi", "uvicorn", "python-multipart"),
    "tensorboard": ("tensorboard",),
    "transformers": ("transformers",),
    "tune": ("optuna",),
    "wandb": ("wandb",),
}


def run() -> None:
    """Print what is there, and what works. UserError with the message of a stage that fails."""
    output.print(make_table("this machine", ("what", "is"), _list_facts(), names=2))
    output.print(make_table("extras", ("extra", "is"), _list_extras(), names=2))
    rows: list[tuple[str, str, str]] = []
    with delay_stop_signals(), tempfile.TemporaryDirectory(prefix="umemma-check-") as name:
        folder = Path(name)
        write_samples(folder / "samples")
        write_json(folder / "params.yaml", SETTINGS)  # JSON is YAML, too
        ((_, error),) = subprocesses.run({"pipeline": _run_pipeline(folder, rows)}, 1)
    output.print(make_table("the pipeline, on made samples", ("stage", "", "s"), rows, names=2))
    if error:
        raise error
    output.print("Everything that is needed works.")


def _run_pipeline(folder: Path, rows: list[tuple[str, str, str]]) -> Job:
    """Run every stage. Add to `rows` its name, how it ended and its seconds."""
    environment = {"TMPDIR": str(folder)}  # torch leaves an empty folder among temporary files
    root = Path(umemma.__file__).parents[1]
    if (root / "pyproject.toml").exists():  # of a clone, which need not be installed
        environment["PYTHONPATH"] = str(root)
    with make_progress() as bars:
        bar = bars.add_task("check", total=len(STAGES), note="")
        for words in STAGES:
            bars.update(bar, note=words[0])
            log = folder / f"{words[0]}.log"
            command = [sys.executable, "-m", "umemma", *words]
            ended = yield Command(command, log, folder, environment)
            outcome = "failed" if ended.status else "works"
            rows.append((words[0], outcome, f"{ended.seconds:.1f}"))
            if ended.status:
                reason = subprocesses.read_reason(ended.status, log)
                raise UserError(reason, f"umemma {words[0]}")
            bars.advance(bar)


def write_samples(folder: Path) -> None:
    """Write a table of dark images with low tones and bright images with high ones."""
    import soundfile
    from PIL import Image

    folder.mkdir()
    generator = np.random.default_rng(0)
    time = np.arange(RATE // 4) / RATE
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["picture", "sound", "label", "split"])
        for number in range(SAMPLES * len(SPLITS)):
            is_bright = number % 2
            pixels = generator.integers(100 * is_bright, 100 * is_bright + 120, (SIDE, SIDE))
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
            tone = np.sin(2 * np.pi * (400 + 800 * is_bright) * time)
            soundfile.write(folder / f"{number}.flac", tone / 2, RATE)
            label = ("dark", "bright")[is_bright]
            split = SPLITS[number // SAMPLES]
            table.writerow([f"{number}.png", f"{number}.flac", label, split])


def _list_facts() -> Iterator[tuple[str, str]]:
    yield "umemma", umemma.__version__
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in LIBRARIES:
        yield name, importlib.metadata.version(name)
    yield "cores", f"{count_cores()} that this process may use, of {os.cpu_count()}"
    yield from _list_gpus()
    decodable = [codec for codec in CODECS if can_decode(codec)]
    yield "decodes", ", ".join(decodable)
    if len(decodable) < len(CODECS):
        yield "can't decode", ", ".join(codec for codec in CODECS if codec not in decodable)


def _list_gpus() -> Iterator[tuple[str, str]]:
    import torch

    if not torch.cuda.is_available():
        yield "GPU", "none that torch can use: umemma computes on the CPU"
    for number in range(torch.cuda.device_count()):
        precisions = ["fp32", "fp16"]
        with torch.cuda.device(number):
            if torch.cuda.is_bf16_supported(including_emulation=False):
                precisions.append("bf16")
        yield f"GPU {number}", f"{torch.cuda.get_device_name(number)}: {', '.join(precisions)}"


def can_decode(codec: str) -> bool:
    """Return whether PyAV's FFmpeg has a decoder that needs no GPU."""
    import av

    for decoder in DECODERS.get(codec, (codec,)):
        try:
            if av.Codec(decoder, "r").is_decoder:
                return True
        except av.codec.codec.UnknownCodecError:
            pass
    return False


def _list_extras() -> Iterator[tuple[str, str]]:
    for extra, packages in EXTRAS.items():
        try:
            versions = [f"{name} {importlib.metadata.version(name)}" for name in packages]
        except importlib.metadata.PackageNotFoundError:
            yield extra, escape(f"not installed: pip install 'umemma[{extra}]'")
        else:
            yield extra, ", ".join(versions)
