"""How fast raw files become shards and shards become samples, as ratios against rivals that do the same work in this run.

    python benchmarks/preprocess.py clips     # against ffmpeg called twice per clip, and against a bare PyAV loop
    python benchmarks/preprocess.py pairs     # AV-MNIST-like pairs against a plain webdataset.ShardWriter loop
    python benchmarks/preprocess.py reading   # against a bare webdataset loop
    python benchmarks/preprocess.py memory    # peak memory of the command for ten times as many samples

Every rival and umemma take turns, `--rounds` times; a ratio is that of the medians. `clips` needs the ffmpeg command.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import soundfile
from PIL import Image

SECONDS, FPS, WIDTH, HEIGHT, FRAMES, SIDE, RATE = 3, 25, 480, 360, 8, 224, 16000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["clips", "pairs", "reading", "memory"])
    parser.add_argument("--samples", type=int, default=0, help="for clips and memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        run = {"clips": clips, "pairs": pairs, "reading": reading, "memory": memory}[arguments.what]
        run(arguments.samples, arguments.rounds, arguments.workers)


def compare(rivals: dict[str, Callable[[], None]], samples: int, rounds: int) -> dict[str, float]:
    """{name: median seconds}; the rivals take turns."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    for _ in range(rounds):
        for name, run in rivals.items():
            for left in Path().glob("out*"):
                shutil.rmtree(left)
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    print(f"\n{'':32}{'s':>9}{'spread':>9}{'samples/s':>12}")
    for name, values in times.items():
        middle = statistics.median(values)
        print(f"{name:32}{middle:9.2f}{max(values) - min(values):9.2f}{samples / middle:12.1f}")
    return {name: statistics.median(values) for name, values in times.items()}


def ratios(medians: dict[str, float], ours: str, others: list[str]) -> None:
    for other in others:
        print(f"{ours}: {medians[other] / medians[ours]:.2f} x the speed of {other}")


def umemma(dataset: str, workers: int, settings: str = "") -> None:
    """The command, as a user runs it: start of Python and of the workers included."""
    Path("params.yaml").write_text(settings or f"dataset: {dataset}\nmodalities: [audio, image]\n")
    shutil.rmtree(f"data/shards/{dataset}", ignore_errors=True)
    command = [sys.executable, "-m", "umemma", "preprocess", "--workers", str(workers)]
    subprocess.run(command, check=True, capture_output=True)


# Clips. ---------------------------------------------------------------------------------------------------------------


def clips(samples: int, rounds: int, workers: int) -> None:
    samples = samples or 60
    raw = Path("data/raw/manifest")
    raw.mkdir(parents=True)
    for i in range(4):  # distinct content; the rest are copies, since encoding is slow
        film(raw / f"{i}.mp4", i)
    for i in range(4, samples):
        shutil.copy(raw / f"{i % 4}.mp4", raw / f"{i}.mp4")
    rows = [f"{i}.mp4,{'ab'[i % 2]},{'train' if i % 4 else 'val'}" for i in range(samples)]
    (raw / "table.csv").write_text("\n".join(["clip,label,split", *rows]) + "\n")
    settings = (
        "dataset: manifest\nmodalities: [audio, video]\npreprocess:\n  shard_size: 10\n"
        f"  media: {{side: {SIDE}, frames: {FRAMES}, sample_rate: {RATE}}}\n"
        "  options: {columns: {audio: clip, video: clip}, split: split}\n"
    )
    Path("params.yaml").write_text(settings)
    subprocess.run([sys.executable, "-m", "umemma", "download"], check=True, capture_output=True)
    paths = sorted(raw.glob("*.mp4"))
    medians = {}
    for count in {1, workers}:
        medians |= compare(
            {
                f"ffmpeg twice, {count} processes": partial(over, twice, paths, count),
                f"bare PyAV, {count} processes": partial(over, bare, paths, count),
                f"umemma, {count} processes": partial(umemma, "manifest", count, settings),
            },
            samples,
            rounds,
        )
    for count in {1, workers}:
        others = [f"ffmpeg twice, {count} processes", f"bare PyAV, {count} processes"]
        ratios(medians, f"umemma, {count} processes", others)


def film(path: Path, seed: int) -> None:
    """H.264 and AAC, a moving texture under a tone: about 1 Mbit/s, as such clips have."""
    chance = np.random.default_rng(seed)
    texture = np.asarray(
        Image.fromarray(chance.integers(0, 255, (48, 64, 3), np.uint8)).resize((WIDTH * 2, HEIGHT))
    )
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            "libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"}
        )
        video.width, video.height, video.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        sound = container.add_stream("aac", rate=44100)
        for i in range(SECONDS * FPS):
            view = np.ascontiguousarray(texture[:, 3 * i : 3 * i + WIDTH])
            container.mux(video.encode(av.VideoFrame.from_ndarray(view, "rgb24")))
        container.mux(video.encode(None))
        tone = 0.3 * np.sin(np.arange(SECONDS * 44100) * 0.06) + 0.1 * chance.standard_normal(
            SECONDS * 44100
        )
        frame = av.AudioFrame.from_ndarray(
            np.stack([tone, tone]).astype(np.float32), "fltp", "stereo"
        )
        frame.sample_rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def over(work: Callable[[Path], None], paths: list[Path], count: int) -> None:
    Path("out").mkdir()
    if count == 1:
        for path in paths:
            work(path)
        return
    with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
        list(pool.map(work, paths))


def twice(path: Path) -> None:
    """The usual script: one call for the frames, one for the sound."""
    quiet = ["ffmpeg", "-loglevel", "error", "-y", "-i", str(path)]
    frames = [
        "-vf",
        f"fps={FRAMES / SECONDS},scale=-2:{SIDE}",
        "-q:v",
        "3",
        f"out/{path.stem}-%02d.jpg",
    ]
    subprocess.run([*quiet, *frames], check=True)
    subprocess.run(
        [*quiet, "-vn", "-ac", "1", "-ar", str(RATE), f"out/{path.stem}.wav"], check=True
    )


def bare(path: Path) -> None:
    """One pass that decodes, resizes and encodes, and does nothing else."""
    times = [(i + 0.5) * SECONDS / FRAMES for i in range(FRAMES)]
    chunks = []
    with av.open(str(path)) as container:
        video, sound = container.streams.video[0], container.streams.audio[0]
        resampler = av.AudioResampler("s16", "mono", RATE)
        for packet in container.demux(video, sound):
            for frame in packet.decode():
                if isinstance(frame, av.AudioFrame):
                    chunks += [part.to_ndarray()[0] for part in resampler.resample(frame)]
                elif times and frame.time >= times[0]:
                    number = FRAMES - len(times)
                    times.pop(0)
                    pixels = frame.reformat(
                        round(WIDTH * SIDE / HEIGHT), SIDE, "rgb24"
                    ).to_ndarray()
                    Image.fromarray(pixels).save(f"out/{path.stem}-{number}.jpg", quality=90)
        chunks += [part.to_ndarray()[0] for part in resampler.resample(None)]
    soundfile.write(f"out/{path.stem}.flac", np.concatenate(chunks), RATE)


# Pairs of small images and sounds. ------------------------------------------------------------------------------------


def pairs(samples: int, rounds: int, workers: int) -> None:
    """Needs data/raw/avmnist, whose folder the environment variable AVMNIST names."""
    source = Path(os.environ["AVMNIST"])
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/avmnist").symlink_to(source)
    medians = compare(
        {
            "ShardWriter, 1 process": partial(writer, source),
            "umemma, 1 process": partial(umemma, "avmnist", 1),
            f"umemma, {workers} processes": partial(umemma, "avmnist", workers),
        },
        70_000,
        rounds,
    )
    ratios(medians, "umemma, 1 process", ["ShardWriter, 1 process"])
    ratios(medians, f"umemma, {workers} processes", ["umemma, 1 process"])


def writer(source: Path) -> None:
    """In a process of its own, as umemma is."""
    code = f"import benchmark; benchmark.write_plainly({str(source)!r})"
    shutil.copy(__file__, "benchmark.py")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def write_plainly(source: str) -> None:
    """The loop that one writes by hand: the same media, encoded the same way, into shards of a thousand."""
    import webdataset

    from umemma.datasets import avmnist

    Path("out").mkdir()
    with webdataset.ShardWriter("out/train-%06d.tar", maxcount=1000, verbose=0) as shards:
        for record in avmnist.records(Path(source), avmnist.Options()):
            picture, sound = io.BytesIO(), io.BytesIO()
            Image.fromarray(record.media["image"]()).save(picture, format="PNG")
            made = record.media["audio"]()
            soundfile.write(sound, made.samples, made.rate, format="FLAC", subtype="PCM_16")
            members = {"image.png": picture.getvalue(), "audio.flac": sound.getvalue()}
            shards.write(
                {
                    "__key__": record.key,
                    **members,
                    "json": json.dumps({"label": record.label}).encode(),
                }
            )


# Reading. -------------------------------------------------------------------------------------------------------------


def reading(samples: int, rounds: int, workers: int) -> None:
    """Shards of digits, read and decoded by one process."""
    Path("params.yaml").write_text("dataset: digits\nmodalities: [audio, image]\n")
    for stage in ("download", "preprocess"):
        subprocess.run([sys.executable, "-m", "umemma", stage], check=True, capture_output=True)
    from umemma import config
    from umemma.data import loader, shard_reader
    from umemma.data.storage import Store
    from umemma.modalities import audio, image
    from umemma.types import AudioInput, ImageInput

    specs = {"audio": AudioInput(sample_rate=8000, seconds=0.8, mels=40, window=256, hop=200)}
    specs["image"] = ImageInput(size=16, channels=1)
    store = Store(config.load_params().paths.shards)
    index = shard_reader.read_index(store)

    def ours() -> None:
        with contextlib.ExitStack() as stay:
            options = loader.LoadOptions(workers=0)
            split = loader.load_split(store, index, "train", specs, stay, options)
            assert len(split) == index.samples("train")

    def plain() -> None:
        import torch
        import webdataset

        urls = [store.at(shard.name) for shard in index.shards("train")]
        found = [
            (
                image.decode(s["image.png"], specs["image"]),
                audio.decode(s["audio.flac"], specs["audio"]),
            )
            for s in webdataset.WebDataset(urls, shardshuffle=False)
        ]
        assert len(
            next(torch.stack(column) for column in zip(*found, strict=True))
        ) == index.samples("train")

    medians = compare({"bare webdataset": plain, "umemma": ours}, index.samples("train"), rounds)
    ratios(medians, "umemma", ["bare webdataset"])
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


# Memory. --------------------------------------------------------------------------------------------------------------

TOY = """
import resource, sys
from umemma import config, datasets
    from umemma.data import raw_folder
from umemma.types import DatasetSpec, Plain, Record
from umemma.system.files import write_json
from umemma.stages import preprocess

class Options(Plain):
    samples: int

def spec(folder, options):
    return DatasetSpec("toy", "", ("text",), ("no", "yes"), "", "", ("train",))

def records(folder, options):
    for i in range(options.samples):
        yield Record(f"sample-{i:09d}", "train", i % 2, {"text": f"the {i}th text of many"})

if __name__ == "__main__":
    datasets.NAMES["toy"] = "toy"
    write_json(config.Paths("toy").raw / "download.json", {"files": {}})
    sets = [f"preprocess.options.samples={sys.argv[1]}", "modalities=[text]"]
    index = preprocess.run(config.of("toy", sets), workers=1)
    print(index.samples("train"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def memory(samples: int, rounds: int, workers: int) -> None:
    """A dataset that lists its samples one by one, packed by one process."""
    Path("toy.py").write_text(TOY)
    few = samples or 70_000
    for count in (few, 10 * few):
        done = subprocess.run(
            [sys.executable, "toy.py", str(count)], check=True, capture_output=True, text=True
        )
        print("{:>9} samples, peak {:>4} MiB".format(*done.stdout.split()))


if __name__ == "__main__":
    main()
