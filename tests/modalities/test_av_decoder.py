"""Clips: which frames and which sound are read, and what a stranger's file can't do."""

from __future__ import annotations

import io

import numpy as np
import pytest
import soundfile
from PIL import Image
from toys.media import PACKING, RATE, encode_sound, film, frame_levels, pack_clip

from umemma import modalities
from umemma.modalities import audio, video
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


NOISE = np.random.default_rng(0).normal(0, 3000, 8 * 24000).astype(np.int16)


@pytest.mark.parametrize(
    ("kind", "codec", "options"),
    [
        ("ogg", "libopus", {}),
        ("mp3", "libmp3lame", {}),
        ("mp3", "libmp3lame", {"write_xing": "0"}),
        ("adts", "aac", {}),
        ("caf", "pcm_s16le", {}),
        ("w64", "pcm_s16le", {}),
        ("au", "pcm_s16be", {}),
    ],
)
def test_every_cut_off_sound_is_found(kind, codec, options):
    """Also where the file declares no length: then its last frame or page tells."""
    whole = encode_sound(NOISE, kind, codec, **options)
    sound = soundfile.info(io.BytesIO(audio.pack(whole, PACKING).data))
    assert sound.duration == pytest.approx(8.0, abs=0.1)
    for share in (0.3, 0.5, 0.9):
        with pytest.raises(ValueError, match=r"cut off|not readable"):
            audio.pack(whole[: int(share * len(whole))], PACKING)
    with pytest.raises(ValueError, match=r"cut off|not readable"):
        audio.pack(whole[:-700], PACKING)


def test_samples_that_look_like_the_header_of_a_frame_are_none():
    """FF FB 90 64, which are two samples, begin a frame of MP3 of 417 bytes."""
    samples = np.tile(np.array([-1025, 25744], np.int16), 12000)
    for kind, codec in (("wav", "pcm_s16le"), ("w64", "pcm_s16le")):
        for count in (24000, 4096 + 20):
            assert audio.pack(encode_sound(samples[:count], kind, codec), PACKING) is not None


def test_an_ogg_file_that_is_cut_between_two_pages_is_found():
    whole = encode_sound(NOISE, "ogg", "libopus")
    last_page = whole.rindex(b"OggS")
    with pytest.raises(ValueError, match="cut off"):
        audio.pack(whole[:last_page], PACKING)


@pytest.mark.parametrize(
    ("kind", "codec", "options"),
    [("adts", "aac", {}), ("mp3", "libmp3lame", {"write_xing": "0"})],
)
def test_sound_of_no_declared_length_that_begins_or_ends_with_silence_is_whole(
    kind, codec, options
):
    """FFmpeg guesses its length from the bit rate at the start: ten times too long, or half."""
    silence = np.zeros_like(NOISE)
    for samples in (np.append(silence, NOISE), np.append(NOISE, silence)):
        packed = audio.pack(encode_sound(samples, kind, codec, **options), PACKING)
        assert soundfile.info(io.BytesIO(packed.data)).duration == pytest.approx(16.0, abs=0.1)


def test_sound_that_nothing_can_decode_is_not_silence(tmp_path):
    wave = bytearray(encode_sound(NOISE, "wav", "pcm_s16le"))
    wave[20:22] = b"\xf1\xff"  # the number of a codec that nobody has
    with pytest.raises(ValueError, match="a codec that can't be decoded"):
        audio.pack(bytes(wave), PACKING)


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
