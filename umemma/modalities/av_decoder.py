"""Video and sound files: frames and sound of a clip in one decoding pass (PyAV, that is FFmpeg)."""

from __future__ import annotations

import bisect
import contextlib
import io
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from umemma.modalities.image import to_jpeg
from umemma.modalities.limits import MOST_PIXELS, MOST_SECONDS
from umemma.types import Clip, Packing, Sound

# Playlists and the like name other files, so only containers that hold their own streams are opened.
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,wav,flac,ogg,mp3,aac,aiff,au,caf,w64"
# What is looked at one by one: decoded frames, or packets as they stand in the file.
Piece: TypeAlias = "VideoFrame | AudioFrame | Packet[Any]"

CUT_OFF = "cut off: it ends before its declared length"


class Stretch(NamedTuple):
    """frames: JPEGs, None where none were asked for; sound: None where the file has no sound stream."""

    frames: list[bytes] | None
    sound: Sound | None


def read(
    clip: Clip | bytes, packing: Packing, *, pictures: bool, sound: bool, decode: bool = True
) -> Stretch:
    """The frames and the mono sound of `clip`, or of a whole file's bytes.

    decode=False is a look at the packets only: it misses corrupt ones, and what it gives of frames and sound is empty.
    ValueError, a fixed phrase, where it is missing, corrupt or cut off.
    """
    start, end = (0.0, None) if isinstance(clip, bytes) else (clip.start, clip.end)
    with opened(clip) as container:
        return _read(container, start, end, packing, pictures, sound, decode)


@contextlib.contextmanager
def opened(clip: Clip | bytes) -> Iterator[InputContainer]:
    """The file of a clip. What goes wrong while it is read is a ValueError with a fixed phrase."""
    try:
        with io.BytesIO(clip) if isinstance(clip, bytes) else clip.path.open("rb") as file:
            head, size = file.read(8), file.seek(0, io.SEEK_END)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError("file is missing") from None
    except OSError as error:
        raise ValueError(f"file can't be read: {error.strerror}") from None
    # WAVE, AVI and AIFF say their size first, and FFmpeg corrects it without a word to what is there.
    said = int.from_bytes(head[4:], "little" if head[:4] == b"RIFF" else "big")
    if head[:4] in (b"RIFF", b"FORM") and said != 0xFFFFFFFF and said + 8 > size + 1:
        raise ValueError(CUT_OFF)
    source = io.BytesIO(clip) if isinstance(clip, bytes) else f"file:{clip.path}"
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        with av.open(source, mode="r", options=options) as container:
            yield container
    except UnicodeEncodeError:
        raise ValueError("a file name that is not UTF-8") from None
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"not readable video or sound: {error.strerror}") from None


def _read(
    container: InputContainer,
    start: float,
    stop: float | None,
    packing: Packing,
    pictures: bool,
    sound: bool,
    decode: bool,
) -> Stretch:
    # 1. What there is, and which part of it is wanted.
    video = next(
        (s for s in container.streams.video if s.codec_context and s.codec_context.width), None
    )
    audio = next((s for s in container.streams.audio if s.codec_context), None)
    if pictures and video is None:
        raise ValueError("a video with no frames")
    streams: list[VideoStream | AudioStream] = []
    streams += [video] if video and pictures else []
    streams += [audio] if audio and sound else []
    if not streams:
        return Stretch(None, None)
    origin = (container.start_time or 0) / av.time_base
    length = (
        container.duration / av.time_base
        if container.duration
        else _measure(container, streams) - origin
    )
    begin, end = (start, min(stop or length, length)) if packing.crop else (0.0, length)
    if end - begin > MOST_SECONDS:
        raise ValueError("longer than the bound of an hour")
    if begin >= end > 0:
        raise ValueError("the event lies after the end of the file")
    if (
        begin > 0
    ):  # a second early: where a picture can be decoded from is not where the sound of that moment stands
        container.seek(int((max(0.0, begin - 1.0) + origin) * av.time_base))

    # 2. One pass over both streams. Codec threads gain nothing here; processes do.
    pictured = _declared(video) if video else 0.0  # the sound is often a little longer
    frames = _Frames(begin, min(end, pictured) if pictured > begin else end, packing)
    rate = min(packing.sample_rate, audio.rate) if audio else packing.sample_rate
    samples = _Samples(
        begin,
        end,
        rate,
        raw_floats=audio is not None and audio.codec_context.name.startswith("pcm_f"),
    )
    sinks: dict[int, _Frames | _Samples] = {
        s.index: frames if s is video else samples for s in streams
    }
    waiting = set(sinks)
    for stream in streams:
        stream.codec_context.thread_count = 1
    for packet in container.demux(streams):
        if packet.stream_index not in waiting:
            continue
        if video and packet.stream_index == video.index:
            video.codec_context.skip_frame = (
                "DEFAULT" if frames.may_show(packet, origin) else "NONREF"
            )
        for frame in packet.decode() if decode or packet.is_corrupt else [packet]:
            if (
                isinstance(frame, (VideoFrame, AudioFrame, Packet))
                and frame.pts is not None
                and frame.time_base
            ):
                time = float(frame.pts * frame.time_base) - origin
                if not sinks[packet.stream_index].add(frame, time):
                    waiting.discard(packet.stream_index)
                    break
        if not waiting:
            break

    # 3. A file that was cut off often decodes without an error, so what came is held against what was declared.
    ends = {stream.index: _declared(stream) for stream in streams}
    if not any(ends.values()) and len(waiting) == len(
        streams
    ):  # only the whole file says how long it is
        ends[max(streams, key=lambda stream: sinks[stream.index].reached).index] = length
    for index in waiting:
        if sinks[index].reached < min(ends[index], end) - max(0.5, 0.05 * ends[index]):
            raise ValueError(CUT_OFF)
    return Stretch(
        frames.finish() if pictures else None, samples.finish() if audio in streams else None
    )


def _declared(stream: VideoStream | AudioStream) -> float:
    """s: when a stream says that it ends, 0 where it doesn't say."""
    if not stream.duration or not stream.time_base:
        return 0.0
    return float(stream.duration * stream.time_base)


def _measure(container: InputContainer, streams: list[VideoStream | AudioStream]) -> float:
    """s: the end of the last packet, for files that don't declare their length."""
    ends = [
        float((packet.pts + (packet.duration or 0)) * packet.time_base)
        for packet in container.demux(streams)
        if packet.pts is not None and packet.time_base
    ]
    container.seek(0)
    return max(ends, default=0.0)


class _Frames:
    """Picks the frame that is on the screen at each wanted time, and encodes only those."""

    def __init__(self, begin: float, end: float, packing: Packing) -> None:
        self.packing = packing
        if packing.fps:
            count = max(1, min(packing.frames, int((end - begin) * packing.fps + 1e-6)))
            self.times = [begin + (i + 0.5) / packing.fps for i in range(count)]
        else:
            self.times = [
                begin + (i + 0.5) / packing.frames * (end - begin) for i in range(packing.frames)
            ]
        self.jpegs: list[bytes] = []
        self.shown: Piece | None = None
        self.reached = 0.0

    def add(self, frame: Piece, time: float) -> bool:
        """False when every wanted time has its frame."""
        if isinstance(frame, VideoFrame) and frame.width * frame.height > MOST_PIXELS:
            raise ValueError("picture over the size bound")
        self._show(time)
        self.shown = frame
        lasts = float((frame.duration or 0) * (frame.time_base or 0))
        self.reached = max(self.reached, time + lasts)  # packets come in the order of decoding
        return len(self.jpegs) < len(self.times)

    def may_show(self, packet: Packet[Any], origin: float) -> bool:
        """Whether a wanted time may fall on this packet's picture. If not, and no other needs it, it isn't decoded."""
        if packet.pts is None or not packet.duration or not packet.time_base:
            return True
        time, lasts = (
            float(packet.pts * packet.time_base) - origin,
            float(packet.duration * packet.time_base),
        )
        soon = bisect.bisect_left(self.times, time)
        self.reached = max(self.reached, time + lasts)
        until = time + 2 * lasts  # twice, for durations are not to be relied on
        return soon < len(self.times) and self.times[soon] <= until

    def finish(self) -> list[bytes]:
        """(up to `frames`) JPEGs; times after the last frame show the last frame."""
        if self.shown is None and not self.jpegs:
            raise ValueError("a video with no frames")
        self._show(float("inf"))
        return self.jpegs

    def _show(self, until: float) -> None:
        """Encode the frame on the screen for each wanted time before `until`."""
        encoded: bytes | None = None
        while len(self.jpegs) < len(self.times) and self.times[len(self.jpegs)] < until:
            if self.shown is None:  # the first frame comes later than the first wanted time
                return
            encoded = encoded or self._encode(self.shown)
            self.jpegs.append(encoded)

    def _encode(self, frame: Piece) -> bytes:
        if not isinstance(frame, VideoFrame):
            return b""
        scale = min(1.0, self.packing.side / min(frame.width, frame.height))
        width, height = (max(1, round(n * scale)) for n in (frame.width, frame.height))
        pixels = frame.reformat(width, height, "rgb24").to_ndarray()
        turns = round(frame.rotation / 90) % 4
        return to_jpeg(
            np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels, self.packing.quality
        )


class _Samples:
    """Gathers the sound between two times, mixed down and resampled."""

    def __init__(self, begin: float, end: float, rate: int, raw_floats: bool) -> None:
        self.raw_floats = raw_floats
        self.begin, self.end, self.rate = begin, end, rate
        self.resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
        self.chunks: list[np.ndarray] = []
        self.first: float | None = None
        self.reached = 0.0

    def add(self, frame: Piece, time: float) -> bool:
        """False when the end is reached."""
        until = time + float((frame.duration or 0) * (frame.time_base or 0))
        if isinstance(frame, AudioFrame):
            until = time + frame.samples / frame.sample_rate
        if until > self.begin and time < self.end:
            self.first = time if self.first is None else self.first
            if isinstance(frame, AudioFrame):
                if self.raw_floats and not np.isfinite(frame.to_ndarray()).all():
                    raise ValueError("audio holds values that are not finite")
                self.chunks += [part.to_ndarray()[0] for part in self.resampler.resample(frame)]
        self.reached = until
        return until < self.end

    def finish(self) -> Sound | None:
        """None where the stream has no samples in the stretch."""
        if self.first is None:
            return None
        self.chunks += [part.to_ndarray()[0] for part in self.resampler.resample(None)]
        samples = np.concatenate(self.chunks) if self.chunks else np.zeros(0, np.int16)
        skip = max(0, round((self.begin - self.first) * self.rate))
        return Sound(samples[skip : skip + round((self.end - self.begin) * self.rate)], self.rate)
