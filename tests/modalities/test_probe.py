"""A quick look at media agrees with packing, at a fraction of its time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from toys.doctor import make_jpeg, truncate
from toys.media import film, flac

from umemma import modalities
from umemma.modalities.probe import EMPTY, SOUNDLESS, probe
from umemma.types import Clip, Packing, Sound, Unreadable

P = Packing(side=32)
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
TONE = Sound(np.sin(np.arange(800) / 5).astype(np.float32) / 2, 8000)


def packed(media) -> tuple[dict[str, str], set[str]]:
    """What packing says: why media can't be read, and the modalities that turn out to be absent."""
    members, broken = modalities.pack_readable(media, P)
    return broken, media.keys() - {name.split(".")[0] for name in members} - broken.keys()


def looked(media) -> tuple[dict[str, str], set[str]]:
    result = probe(media, P)
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
            assert looked(media) == packed(media), (share, names)


def test_a_look_agrees_with_packing(clips, tmp_path):
    whole = make_jpeg()
    (tmp_path / "latin.txt").write_bytes("Grüße".encode("latin-1"))
    soundfile.write(tmp_path / "a.wav", TONE.samples, 8000, subtype="PCM_16")
    (tmp_path / "a.flac").write_bytes(flac(TONE.samples))
    stereo = flac(np.stack([TONE.samples, TONE.samples], 1))
    good, mute = clips / "end.mp4", clips / "mute.mp4"
    noise = "not readable video or sound: Invalid data found when processing input"
    missing, latin, half = "file is missing", "text that is not UTF-8", whole[: len(whole) // 2]
    late, deaf = Clip(good, 8.0, 9.0), Clip(clips / "sound.mp4")
    cases = [
        ({"audio": Clip(good), "video": Clip(good)}, {}, set()),
        ({"audio": good, "video": good}, {}, set()),
        ({"audio": Clip(mute), "video": Clip(mute)}, {}, {"audio"}),
        ({"audio": mute, "video": mute}, {}, {"audio"}),
        ({"audio": Clip(good, 1.0, 2.0), "video": Clip(good, 2.0, 3.0)}, {}, set()),
        ({"audio": deaf, "video": Clip(good)}, {}, set()),
        ({"audio": deaf, "video": deaf}, {"video": "a video with no frames"}, set()),
        ({"video": clips / "nowhere.mp4"}, {"video": missing}, set()),
        ({"audio": clips / "nowhere.wav"}, {"audio": missing}, set()),
        ({"audio": Clip(clips / "nowhere.mp4"), "image": GREY}, {"audio": missing}, set()),
        ({"video": clips}, {"video": "file can't be read: Is a directory"}, set()),
        ({"video": late}, {"video": "the event lies after the end of the file"}, set()),
        (
            {"audio": late, "video": late},
            dict.fromkeys(("audio", "video"), "the event lies after the end of the file"),
            set(),
        ),
        ({"video": clips / "noise.mp4"}, {"video": noise}, set()),
        ({"audio": b"RIFF\x04\0\0\0????"}, {"audio": noise}, set()),
        (
            {"audio": b"RIFF\xff\0\0\0????"},
            {"audio": "cut off: it ends before its declared length"},
            set(),
        ),
        ({"video": "a text"}, {"video": "not a video"}, set()),
        ({"audio": tmp_path / "a.wav"}, {}, set()),
        ({"audio": tmp_path / "a.flac"}, {}, set()),
        ({"audio": stereo}, {}, set()),
        ({"audio": flac(np.zeros(50))}, {}, {"audio"}),
        ({"audio": TONE, "image": GREY}, {}, set()),
        ({"audio": Sound(np.zeros(50, np.float32), 8000)}, {}, {"audio"}),
        ({"audio": Sound(np.zeros(0, np.float32), 8000)}, {"audio": "no audio samples"}, set()),
        ({"image": whole, "spectrogram": GREY}, {}, set()),
        ({"image": half}, {"image": "not a readable image: truncated"}, set()),
        ({"image": b"no picture"}, {"image": "not a readable image: unknown format"}, set()),
        ({"image": clips / "nowhere.jpg"}, {"image": missing}, set()),
        ({"image": "a text"}, {"image": "not an image"}, set()),
        (
            {"image": Unreadable("path outside of root"), "text": "hi"},
            {"image": "path outside of root"},
            set(),
        ),
        ({"text": "  Grüße "}, {}, set()),
        ({"text": " \n"}, {}, {"text"}),
        ({"text": tmp_path / "latin.txt"}, {"text": latin}, set()),
        ({"text": b"\xff"}, {"text": latin}, set()),
        (
            {"image": half, "text": b"\xff"},
            {"image": "not a readable image: truncated", "text": latin},
            set(),
        ),
        (
            {"audio": flac(np.zeros(50)), "image": half},
            {"image": "not a readable image: truncated"},
            {"audio"},
        ),
    ]
    for media, broken, absent in cases:
        assert packed(media) == (broken, absent), media
        assert looked(media) == (broken, absent), media


def test_what_only_packing_finds(clips, tmp_path):
    data = bytearray((clips / "a.avi").read_bytes())
    start = data.index(b"movi") + 2000
    for place in range(
        start, len(data) - 3000, 97
    ):  # here and there, so that chunks keep their heads
        data[place] ^= 0xFF
    (tmp_path / "damaged.avi").write_bytes(data)
    media = {"audio": tmp_path / "damaged.avi"}
    assert packed(media)[0]["audio"].startswith("not readable video or sound")
    assert looked(media) == ({}, set())
    silent = {"audio": film(tmp_path / "silent.mp4", tone=0.0)}
    assert (packed(silent), looked(silent)) == (({}, {"audio"}), ({}, set()))
    made = probe({"image": lambda: b"no picture", "text": "word"}, P)
    assert (made.broken, made.unseen) == ({}, {"image"})


def test_why_a_modality_is_absent(clips):
    assert probe({"audio": clips / "mute.mp4", "text": " "}, P).absent == {
        "audio": SOUNDLESS,
        "text": EMPTY,
    }
    assert probe({"audio": flac(np.zeros(50))}, P).absent == {"audio": EMPTY}
