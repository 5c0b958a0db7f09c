"""What strangers send: never a traceback, a file outside of its folder, their code, or much memory.

The inputs are drawn by chance with fixed seeds, so that each run has the same ones.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import random
import shutil
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.numpy import save
from scipy.io import savemat
from toys.archives import tarred, zipped
from toys.hostile import COUNT, DEEP, NAMES, mutate
from toys.media import GREY, TONE, encode_picture, encode_sound, film, flac
from toys.models import call, save_model, write_media
from toys.project import ROOT
from toys.tables import options

from umemma import modalities
from umemma.datasets import manifest
from umemma.errors import UserError
from umemma.system import archives
from umemma.types import Clip, Packing

pytestmark = [pytest.mark.drill, pytest.mark.slow]


def refuse_or_accept(try_it: Callable[[], object]) -> bool:
    """Return whether an input is accepted. Any error but a UserError is a defect."""
    try:
        try_it()
    except UserError:
        return False
    return True


# Archives. ----------------------------------------------------------------------------------------


def make_archives() -> Iterator[bytes]:
    chance = random.Random("archives")
    contents = {"a": b"1" * 2000, "b/c": b"2", "b/d": bytes(3000)}
    packers = [zipped, *(lambda m, k=k: tarred(m, f"w{k}") for k in ("", ":gz", ":bz2", ":xz"))]
    for name, pack in itertools.product(NAMES, (zipped, tarred)):
        try:
            yield pack({"fine": b"1", name: b"2"})
        except ValueError:  # no archive can hold it
            continue
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        yield tarred({"l": (kind, "../../evil"), "l/x": b"1"})
    for pack in packers:
        whole = pack(contents)
        for _ in range(COUNT // 4):
            yield mutate(whole, chance)
    yield zipped({"zeros": bytes(10**8)})
    yield tarred({"zeros": bytes(10**8)}, "w:gz")


def test_archives(inside, count):
    tried = 0
    for data in make_archives():
        (inside / "archive").write_bytes(data)
        refuse_or_accept(
            lambda: archives.unpack(inside / "archive", inside / "raw", lambda n: n, bound=10**6)
        )
        for path in (inside / "raw").rglob("*"):
            assert path.is_dir() or (path.is_file() and not path.is_symlink())
        shutil.rmtree(inside / "raw", ignore_errors=True)
        tried += 1
    count("hostile: archives", tried, 0)


# Media. -------------------------------------------------------------------------------------------


def make_media(folder: Path) -> dict[str, list[bytes]]:
    tone = (TONE.samples * 32767).astype(np.int16)
    clips = [film(folder / f"c{suffix}").read_bytes() for suffix in (".mp4", ".mkv", ".avi", ".ts")]
    sounds = [
        encode_sound(tone, kind, codec)
        for kind, codec in (("wav", "pcm_s16le"), ("ogg", "libopus"), ("mp3", "libmp3lame"))
    ]
    array = io.BytesIO()
    np.save(array, np.arange(12.0).reshape(6, 2))
    arrays = io.BytesIO()
    np.savez(arrays, x=np.arange(12.0).reshape(6, 2))
    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    matlab = io.BytesIO()
    savemat(matlab, {"x": np.arange(12.0).reshape(6, 2)})
    packed_matlab = io.BytesIO()
    savemat(packed_matlab, {"x": np.arange(12.0).reshape(6, 2)}, do_compression=True)
    picture = Image.fromarray(GREY).resize((80, 60))
    return {
        "audio": [*sounds, flac(TONE.samples), encode_sound(tone, "adts", "aac"), *clips[:2]],
        "video": clips,
        "image": [
            encode_picture(picture, kind) for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "DDS")
        ],
        "text": [b"some words", "a cät \u202e".encode(), b"\xff\xfe\x00", b"\x1b[2J"],
        "series": [
            array.getvalue(),
            arrays.getvalue(),
            objects.getvalue(),
            b"t,x\n0,1\n1,2\n",
            matlab.getvalue(),
            packed_matlab.getvalue(),
        ],
        "vector": [array.getvalue(), arrays.getvalue(), objects.getvalue()],
    }


def test_media(inside, count):
    chance = random.Random("media")
    suffixes = {
        "series": ("npy", "npz", "npy", "csv", "mat", "mat"),
        "vector": ("npy", "npz", "npy"),
    }
    tried = 0
    for kind, files in make_media(inside).items():
        for number in range(COUNT):
            place = number % len(files)
            suffix = suffixes.get(kind, ("bin",) * len(files))[place]
            path = inside / f"medium.{suffix}"
            path.write_bytes(mutate(files[place], chance))
            medium = Clip(path) if kind in ("audio", "video") else path
            _, broken = modalities.pack_readable({kind: medium}, Packing())
            for reason in broken.values():
                assert str(inside) not in reason
                assert "0x" not in reason
                assert "position" not in reason
            tried += 1
    count("hostile: media", tried, 0)


# Tables, settings, JSON. --------------------------------------------------------------------------


def make_tables() -> Iterator[tuple[str, bytes]]:
    chance = random.Random("tables")
    rows = [{"file": name, "label": "a"} for name in NAMES]
    plain = "file,label\n" + "".join(f"{i}.png,{'ab'[i % 2]}\n" for i in range(50))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    parquet = io.BytesIO()
    pq.write_table(pa.table({"file": list(NAMES), "label": ["a"] * len(NAMES)}), parquet)
    yield "csv", plain.encode("utf-16")
    yield "csv", b'file,label\n"' + b"x" * 300_000
    yield "csv", b"file,label\n" + b"," * 10**6
    yield "jsonl", b'{"file":' + b"[" * 100_000 + b"]" * 100_000 + b',"label":"a"}'
    yield "jsonl", b'{"file":"a.png","label":' + b"9" * 10_000 + b"}"
    yield "jsonl", b'{"file":"a.png","label":NaN}\n{"file":Infinity,"label":"a"}'
    for _ in range(COUNT // 2):
        yield "csv", mutate(plain.encode(), chance)
        yield "jsonl", mutate(lines.encode(), chance)
        yield "parquet", mutate(parquet.getvalue(), chance)


def test_tables(inside, count):
    tried = 0
    for suffix, data in make_tables():
        for old in inside.glob("table.*"):
            old.unlink()
        (inside / f"table.{suffix}").write_bytes(data)
        refuse_or_accept(lambda: list(manifest.records(inside, options())))
        tried += 1
    count("hostile: tables", tried, 0)


YAML = (
    "&a [*a]",
    "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b, *b, *b]\nd: [*c, *c, *c, *c]",
    "!!python/object/apply:os.system ['touch evil']",
    "!!python/name:os.system",
    "seed: 0\nseed: 1",
    "{" * DEEP,
    "[" * DEEP + "]" * DEEP,
    "a: " * 1000 + "1",
    "\t",
    "\x00",
    "\ud7ff\u202e",
    "seed: 1e999999",
    "seed: .nan",
    "seed: 0x" + "f" * 100_000,
    "dataset: ../../evil",
    "dataset: /etc/passwd",
    'dataset: "\\x1b[2J"',
    "modalities: {a/../b: image}",
    'modalities: {"\\e[2J": image}',
    "encoders: {image: {name: os:system}}",
    "encoders: {image: {name: 'evil:run'}}",
    "preprocess: {shards: /etc}",
    "<<: *nothing",
    "? [a, b]\n: c",
    "--- 1\n--- 2",
    "%YAML 9.9\n---\na: 1",
)


def test_settings(inside, count, capsys):
    chance = random.Random("settings")
    shipped = (ROOT / "params.yaml").read_bytes()
    texts = [text.encode("utf-8", "surrogatepass") for text in YAML]
    texts += [mutate(shipped, chance) for _ in range(COUNT)]
    (inside / "evil.py").write_text("def run(*a, **k):\n    open('../evil', 'w')\n")
    for text in texts:
        (inside / "params.yaml").write_bytes(text)
        assert call("pretrain-unimodal", "--modality", "audio") in (1, 2)
        said = capsys.readouterr().err
        assert "Error: " in said
        assert "Traceback" not in said
        assert "\x1b[2J" not in said
    count("hostile: settings", len(texts), 0)


# Models. ------------------------------------------------------------------------------------------


def make_weights() -> Iterator[bytes]:
    chance = random.Random("weights")
    good = save({"w": np.ones((4, 4), np.float32)})

    def with_header(header: object, size: int | None = None, body: bytes = bytes(64)) -> bytes:
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text) if size is None else size) + text + body

    tensor = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    yield b""
    yield b"\x80\x04cos\nsystem\n(S'touch ../evil'\ntR."  # a pickle
    for size in (0, 2**31, 2**62, 2**64 - 1):
        yield with_header({"w": tensor}, size)
    yield with_header(b"[" * DEEP)
    yield with_header(b"{" * DEEP)
    for change in (
        {"shape": [2**40, 2**40]},
        {"shape": [-4, -4]},
        {"data_offsets": [0, 2**50]},
        {"data_offsets": [64, 0]},
        {"dtype": "PICKLE"},
        {"shape": [4.5]},
    ):
        yield with_header({"w": tensor | change})
    yield with_header({"w": tensor, "x": tensor})
    for _ in range(COUNT):
        yield mutate(good, chance)


def make_abouts(good: dict) -> Iterator[bytes]:
    chance = random.Random("model.json")
    text = json.dumps(good).encode()
    good = {key: value for key, value in good.items() if key != "content_hash"}
    yield b"[" * DEEP
    yield b'{"a":' * DEEP + b"1" + b"}" * DEEP
    yield b"9" * DEEP
    for key in good:
        for value in (None, -1, 1e400, "\x1b[2J", "../../evil", [], {}, [[[]]], {"a": {"b": 1}}):
            yield json.dumps(good | {key: value}).encode()
    for _ in range(COUNT):
        yield mutate(text, chance)


def test_models(inside, count, capsys):
    folder = save_model(inside / "model")
    write_media(inside)
    good = {name: (folder / name).read_bytes() for name in ("model.json", "model.safetensors")}
    about = json.loads(good["model.json"])
    cases = [("model.safetensors", data) for data in make_weights()]
    cases += [("model.json", data) for data in make_abouts(about)]
    for name, data in cases:
        for each in good:
            (folder / each).write_bytes(good[each])
        (folder / name).write_bytes(data)
        status = call("predict", "--model", "model", "--image", "x.png")
        said = capsys.readouterr()
        assert status in (0, 1, 2), (name, data[:200])
        assert "Traceback" not in said.err
        assert "\x1b[2J" not in said.err + said.out
        assert "nan" not in said.out
    count("hostile: models", len(cases), 0)


def test_model_folders(inside, count):
    """Links and pipes in the place of files, and a folder in the place of a model."""
    write_media(inside)
    tried = 0
    for name in ("model.json", "model.safetensors"):
        for make in (
            lambda path: path.symlink_to("/dev/zero"),
            lambda path: path.symlink_to(path),
            lambda path: path.symlink_to("nowhere"),
            os.mkfifo,
            os.mkdir,
        ):
            folder = save_model(inside / "model")
            (folder / name).unlink()
            make(folder / name)
            assert call("predict", "--model", "model", "--image", "x.png") == 1
            shutil.rmtree(folder)
            tried += 1
    count("hostile: folders of models", tried, 0)
