"""Measure training on a GPU: beside a bare loop, in each precision, and how long it waits for data.

    python benchmarks/gpu.py --samples 4096 --epochs 4

A ViT-B/16 is trained from scratch on made-up pictures (JPEG, 256 pixels), by `umemma
pretrain-unimodal` and by a plain loop whose pictures lie on the GPU already. The speeds are those
of the epochs after the first two; umemma's are from its log.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

PROJECT = Path(__file__).resolve().parent.parent
MODEL = "vit_base_patch16_224"
SIZE = 224  # pixels
CLASSES = 10
WARM_UP = 2  # epochs
EPOCH = re.compile(r"DEBUG.* ([\d,]+) samples/s, (\d+)% of the time waiting.* peak ([\d.]+) GiB")
PARAMS = f"""
dataset: manifest
modalities: [image, text]
preprocess:
  options: {{table: table.csv, columns: {{image: image, text: text}}, label: label, split: split}}
encoders:
  image: {{name: "timm:{MODEL}", weights: none}}
  text: {{name: "text:cnn"}}
"""
FASTEST = "machine.deterministic=false"
CROP = "augment={image: {crop: 0.3, flip: 0.5}}"
# {name: (words that say what the bare loop is like, changes of umemma's settings)}
RUNS = {
    "bf16": ("bf16 repeats", ()),
    "bf16, fastest kernels": ("bf16", (FASTEST,)),
    "bf16, decoded for each batch": ("bf16", (FASTEST, "machine.memory=0")),
    "bf16, cropped and flipped": ("bf16", (FASTEST, CROP)),
    "bf16, RandAugment": ("bf16", (FASTEST, "augment={image: {randaugment: 2}}")),
    "bf16, compiled": ("bf16 compiled", (FASTEST, "pretrain.compile=true")),
    "fp16": ("fp16", (FASTEST, "pretrain.precision=fp16")),
    "fp32": ("fp32", (FASTEST, "pretrain.precision=fp32")),
}


def main() -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # for kernels that repeat
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        make_project(arguments.samples)
        bare: dict[str, float] = {}
        for name in arguments.runs:
            loop, changes = RUNS[name]
            if loop not in bare:
                bare[loop] = time_bare_loop(loop.split(), arguments)
                print(f"{'bare loop, ' + loop:40}{bare[loop]:8,.0f} samples/s", flush=True)
            speed, waiting, memory = run_command(changes, arguments)
            print(
                f"{'umemma, ' + name:40}{speed:8,.0f} samples/s, "
                f"{speed / bare[loop]:.3f} of the bare loop, "
                f"{waiting:.0f} % waiting for data, {memory:.1f} GiB",
                flush=True,
            )


def make_project(samples: int) -> None:
    """Make pictures, their table and the shards in the current folder."""
    Path("raw").mkdir()
    with ProcessPoolExecutor() as pool:
        list(pool.map(make_picture, range(samples + 2 * CLASSES), chunksize=64))
    with open("raw/table.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "text", "label", "split"])
        for i in range(samples + 2 * CLASSES):
            split = "train"
            if i >= samples:
                split = ("val", "test")[i % 2]
            writer.writerow([f"{i}.jpg", "a picture", f"class {i // 2 % CLASSES}", split])
    Path("params.yaml").write_text(PARAMS)
    run_umemma("download", "manifest", "--from", "raw")
    run_umemma("preprocess")


def make_picture(number: int) -> None:
    """Write a picture of smooth noise, whose JPEG is about as large as that of a photo."""
    noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((256, 256), Image.Resampling.BICUBIC)
    picture.save(f"raw/{number}.jpg", quality=90)


def run_umemma(*words: str) -> None:
    path = os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "umemma", *words],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr)


def run_command(
    changes: Sequence[str], arguments: argparse.Namespace
) -> tuple[float, float, float]:
    """Return samples/s, the percentage of the time waiting for data, and the peak GiB."""
    settings = [
        f"pretrain.epochs={arguments.epochs}",
        f"pretrain.batch_size={arguments.batch}",
        "pretrain.precision=bf16",
        *changes,
    ]
    words = [word for setting in settings for word in ("--set", setting)]
    for folder in ("logs", "models"):
        shutil.rmtree(folder, ignore_errors=True)
    run_umemma("pretrain-unimodal", "--modality", "image", *words)
    text = "".join(log.read_text() for log in Path("logs").iterdir())
    epochs = [[float(x.replace(",", "")) for x in found] for found in EPOCH.findall(text)]
    assert len(epochs) == arguments.epochs
    speeds, waits, memory = zip(*epochs[WARM_UP:], strict=True)
    return statistics.median(speeds), statistics.median(waits), max(memory)


def time_bare_loop(words: Sequence[str], arguments: argparse.Namespace) -> float:
    """Train timm's model by a plain loop over pictures on the GPU. Return samples/s."""
    import timm
    import torch

    device = torch.device("cuda")
    precision = words[0]
    torch.use_deterministic_algorithms("repeats" in words)
    torch.manual_seed(0)
    model = timm.create_model(MODEL, num_classes=CLASSES).to(device).train()
    forward = torch.compile(model) if "compiled" in words else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05, fused=True)
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]
    scaler = torch.GradScaler("cuda", enabled=precision == "fp16")
    shape = (arguments.samples, 3, SIZE, SIZE)
    pictures = torch.randint(0, 256, shape, dtype=torch.uint8, device=device)
    targets = torch.arange(arguments.samples, device=device) % CLASSES
    seconds = []
    for _ in range(arguments.epochs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for rows in torch.randperm(arguments.samples, device=device).split(arguments.batch):
            inputs = (pictures[rows] / 255).sub_(0.5).div_(0.5)
            with torch.autocast("cuda", dtype, enabled=precision != "fp32"):
                logits = forward(inputs)
            loss = torch.nn.functional.cross_entropy(logits.float(), targets[rows])
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    torch.use_deterministic_algorithms(False)
    return arguments.samples / statistics.median(seconds[WARM_UP:])


if __name__ == "__main__":
    main()
