"""Clips: which frames and which sound are read, and what a stranger's file can't do."""

from __future__ import annotations

import io

import pytest
import soundfile
from PIL import Image
from toys.media import PACKING, RATE, film, frame_levels, pack_clip

from umemma import modalities
from umemma.modalities import video
from umemma.types import Packing


# With x264 most pictures are needed by no other, and skipped.
@pytest.mark.parametrize("codec", ["mpeg4", "libx264"])
def test_frames_stand_in_the_middle_of_equal_parts(tmp_path, codec):
    packed = pack_clip(film(tmp_path / "a.mp4", codec=codec), Packing(frames=5))
    assert sorted(packed) == ["audio.flac", "video.mjpeg"]
    # 20 frames in 2 s; at 0.2, 0.6, 1.0, 1.4, 1.8 s.
    assert frame_levels(packed["video.mjpeg"]) == [2, 6, 10, 14, 18]
    sound = soundfile.info(io.BytesIO(packed["audio.flac"]))
    assert sound.samplerate == RATE
    assert sound.channels == 1
    assert sound.duration == pytest.approx(2.0, abs=0.2)


def test_frames_at_a_rate(tmp_path):
    path = film(tmp_path / "a.mp4")
    packed = pack_clip(path, Packing(fps=2.0))
    # At 0.25, 0.75, 1.25, 1.75 s.
    assert frame_levels(packed["video.mjpeg"]) == [2, 7, 12, 17]
    packed = pack_clip(path, Packing(fps=2.0, frames=3))
    assert frame_levels(packed["video.mjpeg"]) == [2, 7, 12]


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_an_event_is_cut_out_of_pictures_and_sound(tmp_path, name):
    path = film(tmp_path / name, seconds=4.0, fps=5)
    packed = pack_clip(path, Packing(frames=2), start=2.0, end=3.0)
    # At 2.25 and 2.75 s of 5 frames a second.
    assert frame_levels(packed["video.mjpeg"]) == [11, 13]
    sound = soundfile.info(io.BytesIO(packed["audio.flac"]))
    assert sound.duration == pytest.approx(1.0, abs=0.01)
    whole = pack_clip(path, Packing(frames=2, crop=False), start=2.0, end=3.0)
    assert frame_levels(whole["video.mjpeg"]) == [5, 15]


def test_frames_are_bounded_but_never_enlarged(tmp_path):
    large = pack_clip(film(tmp_path / "a.mp4", size=(128, 96)))
    jpeg = video.BORDER.split(large["video.mjpeg"])[0]
    assert Image.open(io.BytesIO(jpeg)).size == (43, 32)
    small = pack_clip(film(tmp_path / "a.mp4"), Packing(side=500))
    jpeg = video.BORDER.split(small["video.mjpeg"])[0]
    assert Image.open(io.BytesIO(jpeg)).size == (64, 48)


def test_a_short_clip_shows_its_last_frame_again(tmp_path):
    path = film(tmp_path / "a.mp4", seconds=0.3, tone=None)
    packed = modalities.pack({"video": path}, Packing(frames=6))
    assert frame_levels(packed["video.mjpeg"]) == [0, 0, 1, 1, 2, 2]


def test_a_slow_film_is_whole(tmp_path):
    packed = pack_clip(film(tmp_path / "a.mp4", seconds=4.0, fps=1))
    assert frame_levels(packed["video.mjpeg"]) == [0, 0, 1, 1, 2, 2, 3, 3]


# Files that cannot be read. -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.avi"])
def test_every_cut_off_file_is_found(tmp_path, name):
    """The mp4 has its table of contents in front, as files for the network have.

    It decodes without an error up to the cut.
    """
    options = {}
    if name == "a.mp4":
        options["movflags"] = "faststart"
    whole = film(tmp_path / name, seconds=6.0, **options).read_bytes()
    cut = tmp_path / f"cut-{name}"
    for share in (0.0, 0.05, 0.2, 0.4, 0.6, 0.8):
        cut.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=r"cut off|not readable|no frames"):
            pack_clip(cut)


def test_what_is_no_clip(tmp_path):
    for content in (b"", b"no film at all", b"\x00" * 5000):
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(ValueError, match="not readable video or sound"):
            pack_clip(tmp_path / "a.mp4")
    sound = film(tmp_path / "sound.mp4", pictures=False)
    with pytest.raises(ValueError, match="a video with no frames"):
        pack_clip(sound)
    with pytest.raises(ValueError, match="file is missing"):
        pack_clip(tmp_path / "nowhere.mp4")
    whole = film(tmp_path / "b.mp4")
    with pytest.raises(ValueError, match="the event lies after the end"):
        pack_clip(whole, PACKING, start=5.0, end=6.0)


def test_a_playlist_cannot_name_other_files(tmp_path):
    film(tmp_path / "secret.ts", codec="mpeg2video")
    (tmp_path / "a.mp4").write_text(
        "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nsecret.ts\n#EXT-X-ENDLIST\n"
    )
    (tmp_path / "b.mp4").write_text("ffconcat version 1.0\nfile secret.ts\n")
    for name in ("a.mp4", "b.mp4"):
        with pytest.raises(ValueError, match="not readable"):
            pack_clip(tmp_path / name)
