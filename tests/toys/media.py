"""Small media files, made the way cameras and data sets make them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
from PIL import Image

from umemma import modalities
from umemma.modalities import video
from umemma.modalities.limits import Packed
from umemma.types import Clip, Packing, Sound

RATE = 8000  # Hz
PACKING = Packing(side=32)
GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
TONE = Sound(np.sin(np.arange(800) / 5).astype(np.float32) / 2, 8000)


def film(
    path: Path,
    seconds: float = 2.0,
    fps: int = 10,
    size: tuple[int, int] = (64, 48),
    *,
    tone: float | None = 0.3,
    pictures: bool = True,
    codec: str = "mpeg4",
    **options: str,
) -> Path:
    """Write a clip whose frame i is grey with level 10 * i.

    tone: the amplitude of its sound; 0 makes a silent track, None makes no track.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        if pictures:
            pictures_stream = container.add_stream(codec, rate=fps)
            pictures_stream.width, pictures_stream.height = size
            pictures_stream.pix_fmt = "yuv420p"
        if tone is not None:
            sound = container.add_stream("aac", rate=RATE)
            sound.layout = "mono"
        if pictures:
            for i in range(round(seconds * fps)):
                pixels = np.full((size[1], size[0], 3), 10 * i % 256, dtype=np.uint8)
                frame = av.VideoFrame.from_ndarray(pixels, "rgb24")
                container.mux(pictures_stream.encode(frame))
            container.mux(pictures_stream.encode(None))
        if tone is not None:
            steps = np.arange(round(seconds * RATE))
            samples = tone * np.sin(2 * np.pi * 440 * steps / RATE)
            chunk = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], "fltp", "mono")
            chunk.sample_rate = RATE
            container.mux(sound.encode(chunk))
            container.mux(sound.encode(None))
    return path


def flac(samples: np.ndarray, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def encode_picture(picture: Image.Image, kind: str, **options: Any) -> bytes:
    """Return a picture as a file of this format, say "JPEG"."""
    file = io.BytesIO()
    picture.save(file, format=kind, **options)
    return file.getvalue()


def open_packed(packed: Packed) -> Image.Image:
    """Open the picture of a tar member."""
    return Image.open(io.BytesIO(packed.data))


def frame_levels(mjpeg: bytes) -> list[int]:
    """Return the numbers of the frames of a `film` that these are."""
    numbers = []
    for jpeg in video.BORDER.split(mjpeg):
        pixels = np.asarray(Image.open(io.BytesIO(jpeg)))
        numbers.append(round(pixels.mean() / 10))
    return numbers


def pack_clip(path: Path, packing: Packing = PACKING, **stretch: float) -> dict[str, bytes]:
    """Pack a clip as audio and as video; stretch: its start and end in s."""
    clip = Clip(path, **stretch)
    return modalities.pack({"audio": clip, "video": clip}, packing)


def encode_sound(
    samples: np.ndarray, kind: str, codec: str, rate: int = 24000, **options: str
) -> bytes:
    """Return 16-bit mono samples as a file of FFmpeg's format and codec, say "adts" and "aac"."""
    file = io.BytesIO()
    with av.open(file, "w", format=kind, options=options) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.codec_context.layout = "mono"
        whole = av.AudioFrame.from_ndarray(samples[None], "s16", "mono")
        whole.sample_rate = rate
        resampler = av.AudioResampler(stream.codec_context.format, "mono", rate)
        for frame in resampler.resample(whole):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()
