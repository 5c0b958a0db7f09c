"""How fast training is, as ratios against rivals that train the same model on the same samples in this run.

    python benchmarks/training.py epoch       # against a per-sample DataLoader loop, and a bare loop over tensors in memory
    python benchmarks/training.py streamed    # the same with a memory budget of 0: decoded for each batch
    python benchmarks/training.py frozen      # kept features against the frozen encoder run in every epoch
    python benchmarks/training.py processes   # two gloo processes against one, one thread each, batches of 256

The rivals take turns, `--rounds` times, in processes of their own; a ratio is that of the medians of seconds per epoch, the
first epoch (start of workers, first decoding) left out. Data: digits, audio and image, `cnn:small`, batches of 64.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH, EPOCHS = 64, 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["epoch", "streamed", "frozen", "processes", *RIVALS])
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if arguments.what in RIVALS:
        print(json.dumps(RIVALS[arguments.what]()))
        return
    here = Path(__file__).resolve()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("params.yaml").write_text((here.parent.parent / "params.yaml").read_text())
        for stage in ("download", "preprocess"):
            subprocess.run([sys.executable, "-m", "umemma", stage], check=True, capture_output=True)
        unpack()
        if arguments.what == "processes":
            times = take_turns(
                {f"{n} process{'es' * (n > 1)}": lambda n=n: command(n) for n in (1, 2)},
                arguments.rounds,
            )
            ratio(times, "2 processes", "1 process")
            return
        rivals = {
            "epoch": ["dataloader", "dataloader2", "bare", "kept"],
            "streamed": ["dataloader", "dataloader2", "streaming"],
            "frozen": ["frozen_each_epoch", "frozen_kept"],
        }[arguments.what]
        start = [sys.executable, str(here)]
        times = take_turns(
            {name: lambda name=name: spawn([*start, name]) for name in rivals}, arguments.rounds
        )
        for other in rivals[:-1]:
            ratio(times, rivals[-1], other)


def take_turns(rivals: dict[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """{name: median seconds per epoch}"""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            times[name].append(run())
    print(f"\n{'':20}{'s per epoch':>12}{'spread':>9}")
    for name, values in times.items():
        print(f"{name:20}{statistics.median(values):12.4f}{max(values) - min(values):9.4f}")
    return {name: statistics.median(values) for name, values in times.items()}


def ratio(times: dict[str, float], ours: str, other: str) -> None:
    print(
        f"{ours}: {times[ours] / times[other]:.3f} of the time of {other}, {times[other] / times[ours]:.2f} x its speed"
    )


def spawn(words: list[str]) -> float:
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def command(processes: int) -> float:
    """Seconds per epoch of `umemma finetune-ensemble --preset late-fusion`, by its log; two of eight left out."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    words = ["-m", "umemma", "finetune-ensemble", "--again", "--preset", "late-fusion"]
    words += ["--set", "finetune.scratch.epochs=8", "--set", "finetune.batch_size=256"]
    words = [*launcher, *words] if processes > 1 else words
    for log in Path("logs").glob("*"):
        log.unlink()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *words], check=True, capture_output=True, env=environment)
    text = "".join(
        log.read_text() for log in Path("logs").glob("*-0.log" if processes > 1 else "*")
    )
    speeds = [float(found.replace(",", "")) for found in re.findall(r"DEBUG.* ([\d,]+)/s, ", text)]
    assert len(speeds) == 8
    return statistics.median(3234 / speed for speed in speeds[2:])


# The rivals, each in a process of its own. ----------------------------------------------------------------------------


def setting() -> tuple[Any, Any, Any]:
    """(settings, index, specs) of the project in the current folder."""
    from umemma import config
    from umemma.data import shard_reader
    from umemma.data.storage import Store
    from umemma.models import factory

    params = config.load_params()
    index = shard_reader.read_index(Store(params.paths.shards))
    return params, index, factory.input_specs({m: params.encoder(m) for m in params.modalities})


def unpack() -> None:
    """The samples as files, one each, as peers have them."""
    from umemma.data import shard_reader
    from umemma.data.storage import Store

    store = Store("data/shards/digits")
    Path("files").mkdir()
    lines = []
    for record in shard_reader.read_split(store, shard_reader.read_index(store), "train"):
        for m, suffix in (("audio", "flac"), ("image", "png")):
            Path(f"files/{record.key}.{suffix}").write_bytes(record.media[m])  # type: ignore[arg-type]
        lines.append(f"{record.key} {record.label}")
    Path("files.txt").write_text("\n".join(lines))


def fresh() -> tuple[Any, Any]:
    """The model and its optimiser."""
    import torch

    from umemma.models import factory

    params, index, specs = setting()
    torch.manual_seed(0)
    model = factory.build({m: params.encoder(m) for m in params.modalities}, specs, index.classes)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.05)


def train_on(batches: Callable[[], Any]) -> float:
    """A plain loop; median seconds of an epoch, the first left out."""
    import torch

    from umemma.training.reproducibility import prepare
    from umemma.types import Batch

    prepare(0, "bench")  # the same kernels and memory for all
    model, optimizer = fresh()
    model.train()
    seconds = []
    for _ in range(EPOCHS):
        started = time.perf_counter()
        for audio, image, target in batches():
            present = torch.ones(len(target), 2, dtype=torch.bool)
            logits = model(Batch({"audio": audio, "image": image}, present, target))
            loss = torch.nn.functional.cross_entropy(logits, target)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def dataloader(workers: int = 0) -> float:
    """A Dataset that opens and decodes a sample's files, in a shuffled DataLoader."""
    import torch
    from torch.utils.data import DataLoader

    loader = DataLoader(
        Files(), batch_size=BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )
    torch.manual_seed(0)
    return train_on(lambda: loader)


class Files:
    def __init__(self) -> None:
        import torchaudio.transforms
        from torchvision import transforms

        self.lines = [line.split() for line in Path("files.txt").read_text().splitlines()]
        self.mel = torchaudio.transforms.MelSpectrogram(
            8000, n_fft=256, win_length=256, hop_length=200, n_mels=40
        )
        steps = [
            transforms.Resize((16, 16)),
            transforms.ToTensor(),
            transforms.Normalize(0.5, 0.25),
        ]
        self.picture = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, i: int) -> tuple[Any, Any, int]:
        import soundfile
        import torch
        from PIL import Image

        key, label = self.lines[i]
        samples = torch.zeros(6400)
        found = torch.from_numpy(soundfile.read(f"files/{key}.flac", dtype="float32")[0])[:6400]
        samples[: len(found)] = found
        loud = torch.log(self.mel(samples) + 1e-5)
        with Image.open(f"files/{key}.png") as picture:
            pixels = self.picture(picture)
        return ((loud - loud.mean()) / (loud.std() + 1e-3))[None], pixels, int(label)


def bare() -> float:
    """Indexing tensors that are in memory, ready to be fed."""
    import numpy as np
    import torch

    params, _, _ = setting()
    with contextlib.ExitStack() as stay:
        (batch,) = load(params, stay, 1000.0).batches([np.arange(3234)], torch.device("cpu"))

    def batches() -> Any:
        for chosen in torch.randperm(len(batch.target)).split(BATCH):
            yield batch.inputs["audio"][chosen], batch.inputs["image"][chosen], batch.target[chosen]

    return train_on(batches)


def load(params: Any, stay: contextlib.ExitStack, memory: float) -> Any:
    from umemma.data import loader
    from umemma.data.storage import Store

    _, index, specs = setting()
    options = loader.LoadOptions(memory=memory)
    return loader.load_split(Store(params.paths.shards), index, "train", specs, stay, options)


def ours(memory: float) -> float:
    """`fit`, as the stages call it, with everything that it does on the way."""
    import numpy as np

    from umemma.training.optimizer import Optimizer
    from umemma.training.reproducibility import prepare
    from umemma.training.run_folder import Run
    from umemma.training.step import PatternStep
    from umemma.training.trainer import count_steps, fit

    params, _, _ = setting()
    prepare(0, "bench")
    model, _ = fresh()
    ends: list[float] = []

    def validate() -> dict[str, float]:
        ends.append(time.perf_counter())
        return {"score": 0.0, "loss": -float(len(ends))}

    changes = {
        "epochs": EPOCHS,
        "batch_size": BATCH,
        "patience": EPOCHS,
    }
    training = params.pretrain.model_copy(update=changes)
    with contextlib.ExitStack() as stay:
        train = load(params, stay, memory)
        step = PatternStep(model, np.array([1.0, 0.0, 0.0]), draw_one=False)
        run = Run(Path(tempfile.mkdtemp()), "bench")
        optimizer = Optimizer(
            model,
            training,
            total_steps=count_steps(len(train), BATCH, EPOCHS),
        )
        fit(
            step,
            optimizer,
            train,
            validate,
            run,
            training=training,
            seed=0,
            title="bench",
        )
    return statistics.median(np.diff(ends))


def frozen(kept: bool) -> float:
    """A frozen ResNet-18 on pictures of 64 pixels; what is trained is the head."""
    import numpy as np
    import torch

    from umemma.config import Encoder, Machine
    from umemma.data.storage import Store
    from umemma.models import factory
    from umemma.training import feature_cache
    from umemma.training import train as train_module
    from umemma.training.reproducibility import prepare
    from umemma.training.run_folder import Run
    from umemma.training.step import PatternStep

    params, index, _ = setting()
    prepare(0, "bench")
    encoder = Encoder(name="timm:resnet18", weights="none", tune="frozen", input={"size": 64})
    specs = factory.input_specs({"image": encoder})
    torch.manual_seed(0)
    model = factory.build({"image": encoder}, specs, index.classes)
    if not kept:
        feature_cache.find_frozen = lambda model, augments: []  # type: ignore[assignment]
    ends: list[float] = []
    note = train_module.fit

    def timed(step: Any, optimizer: Any, train: Any, validate: Any, run: Any, **how: Any) -> Any:
        def validated() -> dict[str, float]:
            ends.append(time.perf_counter())
            return {"score": 0.0, "loss": -float(len(ends))}

        started = time.perf_counter()
        ends.append(started)
        return note(step, optimizer, train, validated, run, **how)

    train_module.fit = timed
    epochs = 12 if kept else 2
    changes = {"epochs": epochs, "batch_size": BATCH, "patience": epochs}
    data = train_module.DataSource(Store(params.paths.shards), index, specs, Machine(), 0)
    folder = Path(tempfile.mkdtemp())
    train_module.train_model(
        PatternStep(model, np.ones(1), draw_one=False),
        data,
        Run(folder, "bench"),
        training=params.pretrain.of("image").model_copy(update=changes),
        cache_folder=folder,
        device=torch.device("cpu"),
        title="bench",
    )
    return statistics.median(np.diff(ends)[1:])


RIVALS: dict[str, Callable[[], float]] = {
    "dataloader": dataloader,
    "dataloader2": lambda: dataloader(2),
    "bare": bare,
    "kept": lambda: ours(1000.0),
    "streaming": lambda: ours(0.0),
    "frozen_each_epoch": lambda: frozen(False),
    "frozen_kept": lambda: frozen(True),
}


if __name__ == "__main__":
    main()
