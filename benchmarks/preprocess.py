"""Measure how fast raw files become shards and shards become samples, against other programs.

    python benchmarks/preprocess.py clips     # ffmpeg called twice per clip, and a bare PyAV loop
    python benchmarks/preprocess.py pairs     # AV-MNIST pairs, a plain webdataset.ShardWriter loop
    python benchmarks/preprocess.py reading   # a bare webdataset loop
    python benchmarks/preprocess.py memory    # peak memory for ten times as many samples

The other programs do the same work in the same run. They and umemma take turns, `--rounds` times; a
ratio is that of the medians. `clips` needs the ffmpeg command, and `pairs` the raw folder of
avmnist, whose absolute path the environment variable AVMNIST holds.
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
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
import soundfile
from PIL import Image

if TYPE_CHECKING:
    from umemma.data.shard_reader import Index
    from umemma.system.storage import Store

SECONDS = 3
FPS = 25
WIDTH = 480
HEIGHT = 360
FRAMES = 8
SIDE = 224
PACKED_RATE = 16000  # Hz
FILM_RATE = 44100  # Hz
FILMS = 4  # with content of their own; the rest are copies, since encoding is slow
PAIRS = 70_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=list(BENCHMARKS))
    parser.add_argument("--samples", type=int, default=0, help="for clips and memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        BENCHMARKS[arguments.what](arguments.samples, arguments.rounds, arguments.workers)


def take_turns(
    programs: Mapping[str, Callable[[], None]],
    samples: int,
    rounds: int,
) -> dict[str, float]:
    """Run every program in turn. Return {name: median seconds}."""
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, run in programs.items():
            for output in Path().glob("out*"):
                shutil.rmtree(output)
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    print(f"\n{'':32}{'s':>9}{'spread':>9}{'samples/s':>12}")
    medians = {}
    for name, seconds in times.items():
        median = statistics.median(seconds)
        spread = max(seconds) - min(seconds)
        print(f"{name:32}{median:9.2f}{spread:9.2f}{samples / median:12.1f}")
        medians[name] = median
    return medians


def print_ratios(medians: Mapping[str, float], ours: str, others: list[str]) -> None:
    for other in others:
        ratio = medians[other] / medians[ours]
        print(f"{ours}: {ratio:.2f} x the speed of {other}")


def run_umemma(command: str, *options: str) -> None:
    words = [sys.executable, "-m", "umemma", command, *options]
    subprocess.run(words, check=True, capture_output=True)


def run_preprocess(dataset: str, workers: int, settings: str = "") -> None:
    """Run the command as a user does: the start of Python and of the workers is included."""
    default = f"dataset: {dataset}\nmodalities: [audio, image]\n"
    Path("params.yaml").write_text(settings or default)
    shutil.rmtree(f"data/shards/{dataset}", ignore_errors=True)
    run_umemma("preprocess", "--workers", str(workers))


# Clips. -------------------------------------------------------------------------------------------


def compare_clips(samples: int, rounds: int, workers: int) -> None:
    samples = samples or 60
    settings = write_clips(Path("data/raw/manifest"), samples)
    paths = sorted(Path("data/raw/manifest").glob("*.mp4"))
    counts = sorted({1, workers})
    medians: dict[str, float] = {}
    for count in counts:
        programs = {
            f"ffmpeg twice, {count} processes": partial(run_over, run_ffmpeg_twice, paths, count),
            f"bare PyAV, {count} processes": partial(run_over, run_bare_pyav, paths, count),
            f"umemma, {count} processes": partial(run_preprocess, "manifest", count, settings),
        }
        medians |= take_turns(programs, samples, rounds)
    for count in counts:
        others = [f"ffmpeg twice, {count} processes", f"bare PyAV, {count} processes"]
        print_ratios(medians, f"umemma, {count} processes", others)


def write_clips(raw: Path, samples: int) -> str:
    """Write the clips, their table and params.yaml. Return the settings."""
    raw.mkdir(parents=True)
    for number in range(FILMS):
        write_film(raw / f"{number}.mp4", number)
    for number in range(FILMS, samples):
        shutil.copy(raw / f"{number % FILMS}.mp4", raw / f"{number}.mp4")
    rows = ["clip,label,split"]
    for number in range(samples):
        label = "ab"[number % 2]
        split = "train"
        if number % 4 == 0:
            split = "val"
        rows.append(f"{number}.mp4,{label},{split}")
    (raw / "table.csv").write_text("\n".join(rows) + "\n")
    settings = (
        "dataset: manifest\nmodalities: [audio, video]\npreprocess:\n  shard_size: 10\n"
        f"  media: {{side: {SIDE}, frames: {FRAMES}, sample_rate: {PACKED_RATE}}}\n"
        "  options: {columns: {audio: clip, video: clip}, split: split}\n"
    )
    Path("params.yaml").write_text(settings)
    run_umemma("download")
    return settings


def write_film(path: Path, seed: int) -> None:
    """Write H.264 and AAC, a moving texture and a tone: about 1 Mbit/s, as such clips have."""
    random = np.random.default_rng(seed)
    noise = random.integers(0, 255, (48, 64, 3), np.uint8)
    texture = np.asarray(Image.fromarray(noise).resize((WIDTH * 2, HEIGHT)))
    options = {"preset": "veryfast", "crf": "23"}
    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS, options=options)
        video.width = WIDTH
        video.height = HEIGHT
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=FILM_RATE)
        for number in range(SECONDS * FPS):
            view = np.ascontiguousarray(texture[:, 3 * number : 3 * number + WIDTH])
            container.mux(video.encode(av.VideoFrame.from_ndarray(view, "rgb24")))
        container.mux(video.encode(None))
        count = SECONDS * FILM_RATE
        tone = 0.3 * np.sin(np.arange(count) * 0.06) + 0.1 * random.standard_normal(count)
        stereo = np.stack([tone, tone]).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(stereo, "fltp", "stereo")
        frame.sample_rate = FILM_RATE
        container.mux(sound.encode(frame))
        container.mux(sound.encode(None))


def run_over(work: Callable[[Path], None], paths: list[Path], processes: int) -> None:
    Path("out").mkdir()
    if processes == 1:
        for path in paths:
            work(path)
        return
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(work, paths))


def run_ffmpeg_twice(path: Path) -> None:
    """Do what the usual script does: one call for the frames, one for the sound."""
    command = ["ffmpeg", "-loglevel", "error", "-y", "-i", str(path)]
    scale = f"fps={FRAMES / SECONDS},scale=-2:{SIDE}"
    frames = ["-vf", scale, "-q:v", "3", f"out/{path.stem}-%02d.jpg"]
    sound = ["-vn", "-ac", "1", "-ar", str(PACKED_RATE), f"out/{path.stem}.wav"]
    subprocess.run([*command, *frames], check=True)
    subprocess.run([*command, *sound], check=True)


def run_bare_pyav(path: Path) -> None:
    """Decode, resize and encode in one pass, and do nothing else."""
    times = [(number + 0.5) * SECONDS / FRAMES for number in range(FRAMES)]
    chunks = []
    saved = 0
    size = (round(WIDTH * SIDE / HEIGHT), SIDE)
    with av.open(str(path)) as container:
        video = container.streams.video[0]
        sound = container.streams.audio[0]
        resampler = av.AudioResampler("s16", "mono", PACKED_RATE)
        for packet in container.demux(video, sound):
            for frame in packet.decode():
                if isinstance(frame, av.AudioFrame):
                    chunks += [part.to_ndarray()[0] for part in resampler.resample(frame)]
                elif saved < FRAMES and frame.time >= times[saved]:
                    pixels = frame.reformat(*size, "rgb24").to_ndarray()
                    Image.fromarray(pixels).save(f"out/{path.stem}-{saved}.jpg", quality=90)
                    saved += 1
        chunks += [part.to_ndarray()[0] for part in resampler.resample(None)]
    soundfile.write(f"out/{path.stem}.flac", np.concatenate(chunks), PACKED_RATE)


# Pairs of small images and sounds. ----------------------------------------------------------------


def compare_pairs(samples: int, rounds: int, workers: int) -> None:
    source = Path(os.environ["AVMNIST"])
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/avmnist").symlink_to(source)
    writer = "ShardWriter, 1 process"
    one = "umemma, 1 process"
    several = f"umemma, {workers} processes"
    programs = {
        writer: partial(run_shard_writer, source),
        one: partial(run_preprocess, "avmnist", 1),
        several: partial(run_preprocess, "avmnist", workers),
    }
    medians = take_turns(programs, PAIRS, rounds)
    print_ratios(medians, one, [writer])
    print_ratios(medians, several, [one])


def run_shard_writer(source: Path) -> None:
    """Run `write_plain_shards` in a process of its own, as umemma runs."""
    code = f"import benchmark; benchmark.write_plain_shards({str(source)!r})"
    shutil.copy(__file__, "benchmark.py")
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def write_plain_shards(source: str) -> None:
    """Write the same media, encoded the same way, into shards of a thousand, by a plain loop."""
    import webdataset

    from umemma.datasets import avmnist

    Path("out").mkdir()
    with webdataset.ShardWriter("out/train-%06d.tar", maxcount=1000, verbose=0) as shards:
        for record in avmnist.records(Path(source), avmnist.Options()):
            image = io.BytesIO()
            Image.fromarray(record.media["image"]()).save(image, format="PNG")
            sound = record.media["audio"]()
            flac = io.BytesIO()
            soundfile.write(flac, sound.samples, sound.rate, format="FLAC", subtype="PCM_16")
            members = {
                "__key__": record.key,
                "image.png": image.getvalue(),
                "audio.flac": flac.getvalue(),
                "json": json.dumps({"label": record.label}).encode(),
            }
            shards.write(members)


# Reading. -----------------------------------------------------------------------------------------


def compare_reading(samples: int, rounds: int, workers: int) -> None:
    """Read and decode the shards of digits in one process."""
    Path("params.yaml").write_text("dataset: digits\nmodalities: [audio, image]\n")
    for stage in ("download", "preprocess"):
        run_umemma(stage)
    from umemma import config
    from umemma.data import shard_reader
    from umemma.system.storage import Store

    store = Store(config.load_params().paths.shards)
    index = shard_reader.read_index(store)
    programs = {
        "bare webdataset": partial(read_with_webdataset, store, index),
        "umemma": partial(read_with_umemma, store, index),
    }
    medians = take_turns(programs, index.samples("train"), rounds)
    print_ratios(medians, "umemma", ["bare webdataset"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory: {peak:.0f} MiB")


def make_input_specs() -> dict:
    from umemma.types import AudioInput, ImageInput

    audio = AudioInput(sample_rate=8000, seconds=0.8, mels=40, window=256, hop=200)
    return {"audio": audio, "image": ImageInput(size=16, channels=1)}


def read_with_umemma(store: Store, index: Index) -> None:
    from umemma.data import loader

    specs = make_input_specs()
    options = loader.LoadOptions(workers=0)
    with contextlib.ExitStack() as stack:
        split = loader.load_split(store, index, "train", specs, stack, options)
        assert len(split) == index.samples("train")


def read_with_webdataset(store: Store, index: Index) -> None:
    import torch
    import webdataset

    from umemma.modalities import audio, image

    specs = make_input_specs()
    urls = [store.at(shard.name) for shard in index.shards("train")]
    images = []
    sounds = []
    for sample in webdataset.WebDataset(urls, shardshuffle=False):
        images.append(image.decode(sample["image.png"], specs["image"]))
        sounds.append(audio.decode(sample["audio.flac"], specs["audio"]))
    assert len(torch.stack(images)) == len(torch.stack(sounds)) == index.samples("train")


# Memory. ------------------------------------------------------------------------------------------

TOY = """
import resource, sys
from umemma import config, datasets
from umemma.stages import preprocess
from umemma.system.files import write_json
from umemma.types import DatasetSpec, Plain, Record

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
    index = preprocess.run(config.default_params("toy", sets), workers=1)
    print(index.samples("train"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def measure_memory(samples: int, rounds: int, workers: int) -> None:
    """Pack a dataset that lists its samples one by one, in one process."""
    Path("toy.py").write_text(TOY)
    samples = samples or 70_000
    for count in (samples, 10 * samples):
        process = subprocess.run(
            [sys.executable, "toy.py", str(count)],
            check=True,
            capture_output=True,
            text=True,
        )
        packed, peak = process.stdout.split()
        print(f"{packed:>9} samples, peak {peak:>4} MiB")


BENCHMARKS = {
    "clips": compare_clips,
    "pairs": compare_pairs,
    "reading": compare_reading,
    "memory": measure_memory,
}


if __name__ == "__main__":
    main()
