"""A quick look at media agrees with packing, at a fraction of its time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from toys.doctor import make_jpeg, truncate
from toys.media import GREY, PACKING, TONE, film, flac

from umemma import modalities
from umemma.modalities.probe import EMPTY, SOUNDLESS, probe
from umemma.types import Clip, Sound, Unreadable

# What can be said of the media of a sample: why some cannot be read, and which are absent.
Verdict = tuple[dict[str, str], set[str]]
Case = tuple[dict[str, Any], dict[str, str], set[str]]

NOISE = "not readable video or sound: Invalid data found when processing input"
MISSING = "file is missing"
NOT_UTF8 = "text that is not UTF-8"
TRUNCATED = "not a readable image: truncated"
TOO_LATE = "the event lies after the end of the file"


def judge_by_packing(media: dict[str, Any]) -> Verdict:
    members, broken = modalities.pack_readable(media, PACKING)
    packed_names = {member.split(".")[0] for member in members}
    return broken, media.keys() - packed_names - broken.keys()


def judge_by_probe(media: dict[str, Any]) -> Verdict:
    result = probe(media, PACKING)
    return result.broken, set(result.absent)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    film(folder / "front.mp4", seconds=6.0, movflags="faststart")
    film(folder / "b-frames.mp4", seconds=6.0, codec="libx264", movflags="faststart")
    film(folder / "slow.mp4", seconds=6.0, fps=2, codec="libx264", movflags="faststart")
    for name in ("end.mp4", "a.mkv", "a.avi"):
        film(folder / name, seconds=6.0)
    film(folder / "mute.mp4", tone=None)
    film(folder / "sound.mp4", pictures=False)
    (folder / "empty.mp4").touch()
    (folder / "noise.mp4").write_bytes(b"no film at all")
    return folder


@pytest.mark.parametrize(
    "name", ["front.mp4", "b-frames.mp4", "slow.mp4", "end.mp4", "a.mkv", "a.avi"]
)
@pytest.mark.parametrize("stretch", [(0.0, None), (1.0, 3.0), (4.0, 6.0)])
def test_clips_that_were_cut_off_are_told_as_packing_tells_them(clips, tmp_path, name, stretch):
    for share in (0.0, 0.1, 0.4, 0.55, 0.7, 0.85, 0.95, 1.0):
        clip = Clip(truncate(clips / name, tmp_path / name, share), *stretch)
        for names in (("audio", "video"), ("audio",), ("video",)):
            media = dict.fromkeys(names, clip)
            assert judge_by_probe(media) == judge_by_packing(media), (share, names)


def list_clip_cases(clips: Path) -> list[Case]:
    good = clips / "end.mp4"
    mute = clips / "mute.mp4"
    late = Clip(good, 8.0, 9.0)
    no_frames = Clip(clips / "sound.mp4")
    nowhere = clips / "nowhere.mp4"
    return [
        ({"audio": Clip(good), "video": Clip(good)}, {}, set()),
        ({"audio": good, "video": good}, {}, set()),
        ({"audio": Clip(mute), "video": Clip(mute)}, {}, {"audio"}),
        ({"audio": mute, "video": mute}, {}, {"audio"}),
        ({"audio": Clip(good, 1.0, 2.0), "video": Clip(good, 2.0, 3.0)}, {}, set()),
        ({"audio": no_frames, "video": Clip(good)}, {}, set()),
        ({"audio": no_frames, "video": no_frames}, {"video": "a video with no frames"}, set()),
        ({"video": nowhere}, {"video": MISSING}, set()),
        ({"audio": Clip(nowhere), "image": GREY}, {"audio": MISSING}, set()),
        ({"video": clips}, {"video": "file can't be read: Is a directory"}, set()),
        ({"video": late}, {"video": TOO_LATE}, set()),
        ({"audio": late, "video": late}, {"audio": TOO_LATE, "video": TOO_LATE}, set()),
        ({"video": clips / "noise.mp4"}, {"video": NOISE}, set()),
        ({"video": "a text"}, {"video": "not a video"}, set()),
    ]


def list_sound_cases(folder: Path) -> list[Case]:
    soundfile.write(folder / "a.wav", TONE.samples, 8000, subtype="PCM_16")
    (folder / "a.flac").write_bytes(flac(TONE.samples))
    stereo = flac(np.stack([TONE.samples, TONE.samples], 1))
    cut_off = "cut off: it ends before its declared length"
    silence = Sound(np.zeros(50, np.float32), 8000)
    no_samples = Sound(np.zeros(0, np.float32), 8000)
    return [
        ({"audio": folder / "nowhere.wav"}, {"audio": MISSING}, set()),
        ({"audio": b"RIFF\x04\0\0\0????"}, {"audio": NOISE}, set()),
        ({"audio": b"RIFF\xff\0\0\0????"}, {"audio": cut_off}, set()),
        ({"audio": folder / "a.wav"}, {}, set()),
        ({"audio": folder / "a.flac"}, {}, set()),
        ({"audio": stereo}, {}, set()),
        ({"audio": flac(np.zeros(50))}, {}, {"audio"}),
        ({"audio": TONE, "image": GREY}, {}, set()),
        ({"audio": silence}, {}, {"audio"}),
        ({"audio": no_samples}, {"audio": "no audio samples"}, set()),
    ]


def list_image_and_text_cases(folder: Path) -> list[Case]:
    whole = make_jpeg()
    half = whole[: len(whole) // 2]
    outside = Unreadable("path outside of root")
    latin = folder / "latin.txt"
    latin.write_bytes("Grüße".encode("latin-1"))
    silence = flac(np.zeros(50))
    return [
        ({"image": whole, "spectrogram": GREY}, {}, set()),
        ({"image": half}, {"image": TRUNCATED}, set()),
        ({"image": b"no picture"}, {"image": "not a readable image: unknown format"}, set()),
        ({"image": folder / "nowhere.jpg"}, {"image": MISSING}, set()),
        ({"image": "a text"}, {"image": "not an image"}, set()),
        ({"image": outside, "text": "hi"}, {"image": "path outside of root"}, set()),
        ({"text": "  Grüße "}, {}, set()),
        ({"text": " \n"}, {}, {"text"}),
        ({"text": latin}, {"text": NOT_UTF8}, set()),
        ({"text": b"\xff"}, {"text": NOT_UTF8}, set()),
        ({"image": half, "text": b"\xff"}, {"image": TRUNCATED, "text": NOT_UTF8}, set()),
        ({"audio": silence, "image": half}, {"image": TRUNCATED}, {"audio"}),
    ]


def test_a_look_agrees_with_packing(clips, tmp_path):
    cases = [
        *list_clip_cases(clips),
        *list_sound_cases(tmp_path),
        *list_image_and_text_cases(tmp_path),
    ]
    for media, broken, absent in cases:
        assert judge_by_packing(media) == (broken, absent), media
        assert judge_by_probe(media) == (broken, absent), media


def test_what_only_packing_finds(clips, tmp_path):
    data = bytearray((clips / "a.avi").read_bytes())
    start = data.index(b"movi") + 4
    chunk = start
    while data[chunk : chunk + 4] != b"idx1":
        size = int.from_bytes(data[chunk + 4 : chunk + 8], "little")
        # Single bytes, and none of the head of a chunk.
        for place in range(chunk + 8, chunk + 8 + size, 97):
            if place > start + 2000:
                data[place] ^= 0xFF
        chunk += 8 + size + size % 2
    (tmp_path / "damaged.avi").write_bytes(data)
    damaged = {"audio": tmp_path / "damaged.avi"}
    broken, _ = judge_by_packing(damaged)
    assert broken["audio"].startswith("not readable video or sound")
    assert judge_by_probe(damaged) == ({}, set())

    silent = {"audio": film(tmp_path / "silent.mp4", tone=0.0)}
    assert judge_by_packing(silent) == ({}, {"audio"})
    assert judge_by_probe(silent) == ({}, set())

    result = probe({"image": lambda: b"no picture", "text": "word"}, PACKING)
    assert result.broken == {}
    assert result.unseen == {"image"}


def test_why_a_modality_is_absent(clips):
    result = probe({"audio": clips / "mute.mp4", "text": " "}, PACKING)
    assert result.absent == {"audio": SOUNDLESS, "text": EMPTY}
    result = probe({"audio": flac(np.zeros(50))}, PACKING)
    assert result.absent == {"audio": EMPTY}
