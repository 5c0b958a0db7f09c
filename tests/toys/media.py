"""Small media files, made the way cameras and data sets make them."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import soundfile

RATE = 8000  # Hz


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
            video = container.add_stream(codec, rate=fps)
            video.width, video.height = size
            video.pix_fmt = "yuv420p"
        if tone is not None:
            sound = container.add_stream("aac", rate=RATE)
            sound.layout = "mono"
        for i in range(round(seconds * fps) if pictures else 0):
            level = np.full((size[1], size[0], 3), 10 * i % 256, dtype=np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(level, "rgb24")))
        if pictures:
            container.mux(video.encode(None))
        if tone is not None:
            samples = tone * np.sin(2 * np.pi * 440 * np.arange(round(seconds * RATE)) / RATE)
            frame = av.AudioFrame.from_ndarray(samples.astype(np.float32)[None], "fltp", "mono")
            frame.sample_rate = RATE
            container.mux(sound.encode(frame))
            container.mux(sound.encode(None))
    return path


def flac(samples: np.ndarray, rate: int = 8000) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()
