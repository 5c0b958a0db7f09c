"""What is kept of a clip while it is decoded: JPEGs of some frames, and the samples of sound."""

from __future__ import annotations

import bisect
from typing import Any, TypeAlias

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.packet import Packet
from av.video.frame import VideoFrame

from umemma.modalities.image import to_jpeg
from umemma.modalities.limits import MAX_PIXELS
from umemma.types import Packing, Sound

# What a sink takes: decoded frames, or packets as they stand in the file.
Piece: TypeAlias = "VideoFrame | AudioFrame | Packet[Any]"
NO_FRAMES = "a video with no frames"


class Frames:
    """Picks the frame that is on the screen at each requested time, and encodes only those."""

    def __init__(self, begin: float, end: float, packing: Packing) -> None:
        self.packing = packing
        self.times = _frame_times(begin, end, packing)
        self.jpegs: list[bytes] = []
        self.shown: Piece | None = None
        self.last: Packet[Any] | None = None
        self.reached = 0.0

    def add(self, frame: Piece, time: float) -> bool:
        """Take the next frame. Returns False once every requested time has its frame."""
        if isinstance(frame, VideoFrame) and frame.width * frame.height > MAX_PIXELS:
            raise ValueError("picture over the size bound")
        self._show(time)
        self.shown = frame
        duration = float((frame.duration or 0) * (frame.time_base or 0))
        self.reached = max(self.reached, time + duration)  # packets come in the order of decoding
        return len(self.jpegs) < len(self.times)

    def may_show(self, packet: Packet[Any], origin: float) -> bool:
        """Return whether a requested time may fall on the picture of this packet.

        A picture that is not needed, by itself or for others, is not decoded.
        """
        if packet.pts is None or not packet.duration or not packet.time_base:
            return True
        time = float(packet.pts * packet.time_base) - origin
        duration = float(packet.duration * packet.time_base)
        self.reached = max(self.reached, time + duration)
        next_time = bisect.bisect_left(self.times, time)
        until = time + 2 * duration  # twice, since durations are not reliable
        return next_time < len(self.times) and self.times[next_time] <= until

    def finish(self) -> list[bytes]:
        """Return up to `frames` JPEGs; times after the last frame show the last frame."""
        if self.shown is None and not self.jpegs:
            raise ValueError(NO_FRAMES)
        self._show(float("inf"))
        return self.jpegs

    def _show(self, until: float) -> None:
        """Encode the frame on the screen for each requested time before `until`."""
        encoded: bytes | None = None
        while len(self.jpegs) < len(self.times) and self.times[len(self.jpegs)] < until:
            if self.shown is None:  # the first frame comes later than the first requested time
                return
            if not encoded:
                encoded = self._encode(self.shown)
            self.jpegs.append(encoded)

    def _encode(self, frame: Piece) -> bytes:
        """Scale a frame to the side of the packing, turn it upright and encode it as a JPEG."""
        if not isinstance(frame, VideoFrame):
            return b""
        scale = min(1.0, self.packing.side / min(frame.width, frame.height))
        width = max(1, round(frame.width * scale))
        height = max(1, round(frame.height * scale))
        pixels: np.ndarray = frame.reformat(width, height, "rgb24").to_ndarray()
        quarter_turns = round(frame.rotation / 90) % 4
        if quarter_turns:
            pixels = np.ascontiguousarray(np.rot90(pixels, quarter_turns))
        return to_jpeg(pixels, self.packing.quality)


def _frame_times(begin: float, end: float, packing: Packing) -> list[float]:
    """Return the times of the frames in s: at a rate, or evenly spread."""
    if packing.fps:
        count = int((end - begin) * packing.fps + 1e-6)
        count = max(1, min(packing.frames, count))
        return [begin + (i + 0.5) / packing.fps for i in range(count)]
    count = packing.frames
    return [begin + (i + 0.5) / count * (end - begin) for i in range(count)]


class Samples:
    """Collects the sound between two times, mixed down and resampled."""

    def __init__(self, begin: float, end: float, rate: int, raw_floats: bool) -> None:
        self.raw_floats = raw_floats
        self.begin = begin
        self.end = end
        self.rate = rate
        self.resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        self.chunks: list[np.ndarray] = []
        self.first: float | None = None
        self.last: Packet[Any] | None = None
        self.reached = 0.0

    def add(self, frame: Piece, time: float) -> bool:
        """Take the next frame. Returns False once the end is reached."""
        until = time + float((frame.duration or 0) * (frame.time_base or 0))
        if isinstance(frame, AudioFrame):
            until = time + frame.samples / frame.sample_rate
        if until > self.begin and time < self.end:
            if self.first is None:
                self.first = time
            if isinstance(frame, AudioFrame):
                self._resample(frame)
        self.reached = until
        return until < self.end

    def _resample(self, frame: AudioFrame | None) -> None:
        """Append the resampled frame; None flushes the resampler."""
        if frame is not None and self.raw_floats and not np.isfinite(frame.to_ndarray()).all():
            raise ValueError("audio holds values that are not finite")
        for part in self.resampler.resample(frame):
            self.chunks.append(part.to_ndarray()[0])

    def finish(self) -> Sound | None:
        """Return the sound; None if the stream has no samples in the stretch."""
        if self.first is None:
            return None
        self._resample(None)
        samples = np.zeros(0, np.int16)
        if self.chunks:
            samples = np.concatenate(self.chunks)
        skip = max(0, round((self.begin - self.first) * self.rate))
        count = round((self.end - self.begin) * self.rate)
        return Sound(samples[skip : skip + count], self.rate)
