"""Video and sound files: the frames and the sound of a clip in one decoding pass (PyAV, FFmpeg)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, Any, NamedTuple, TypeAlias

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from umemma.modalities.files.sinks import NO_FRAMES, Frames, Samples
from umemma.modalities.files.wholeness import (
    CUT_OFF,
    check_whole,
    count_declared_bytes,
    has_mp3_length,
)
from umemma.modalities.limits import MAX_SECONDS
from umemma.system.files import check_regular
from umemma.types import Clip, Packing, Sound

# Playlists and similar files name other files, so only containers with streams of their own are
# opened.
FORMATS = "mov,mp4,matroska,webm,avi,mpegts,mpeg,flv,asf,wav,flac,ogg,mp3,aac,aiff,au,caf,w64"
Stream: TypeAlias = "VideoStream | AudioStream"
Sink: TypeAlias = "Frames | Samples"
FRAMED = ("mp2", "mp3", "aac")  # decoders of sound whose frames declare their sizes
NO_DECODER = "not readable video or sound: a codec that can't be decoded"


class DecodedClip(NamedTuple):
    """frames: JPEGs, None if none were requested. sound: None if the file has no sound stream."""

    frames: list[bytes] | None
    sound: Sound | None


def read_clip(
    clip: Clip | bytes,
    packing: Packing,
    *,
    pictures: bool,
    sound: bool,
    decode: bool = True,
) -> DecodedClip:
    """Return the frames and the mono sound of `clip`, or of the bytes of a whole file.

    decode=False only scans the packets: it misses corrupt ones, and the frames and sound that it
    returns are empty. Raises ValueError with a fixed phrase if the file is missing, corrupt or
    truncated.
    """
    with open_container(clip) as container:
        streams = _select_streams(container, pictures, sound)
        if not streams:
            return DecodedClip(None, None)
        # 1. Find the part of the file that is read.
        stretch = _find_stretch(clip, container, streams, packing)
        if stretch.begin > 0:
            # A second early: a picture can be decoded from another place in the file than where
            # the sound of that moment stands.
            seconds = max(0.0, stretch.begin - 1.0) + stretch.origin
            container.seek(int(seconds * av.time_base))
        # 2. Read all streams in one pass.
        sinks = {stream.index: _make_sink(stream, stretch, packing) for stream in streams}
        unfinished = _read_packets(container, streams, sinks, stretch.origin, decode)
        # 3. A truncated file often decodes without an error, so compare with the declared length.
        _check_not_truncated(streams, sinks, unfinished, stretch)
        return _collect(sinks.values())


@contextlib.contextmanager
def open_container(clip: Clip | bytes) -> Iterator[InputContainer]:
    """Open the file of a clip. Errors while it is read become a ValueError with a fixed phrase."""
    _check_file(clip)
    source = io.BytesIO(clip) if isinstance(clip, bytes) else f"file:{clip.path}"
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    try:
        # Titles in any encoding, which nobody reads here.
        with av.open(source, mode="r", options=options, metadata_errors="ignore") as container:
            yield container
    except UnicodeEncodeError:
        raise ValueError("a file name that is not UTF-8") from None
    except (av.FFmpegError, OSError) as error:
        raise ValueError(f"not readable video or sound: {error.strerror}") from None


def _check_file(clip: Clip | bytes) -> None:
    """Raise ValueError for a file that is missing or not a file, or ends before it says."""
    try:
        if isinstance(clip, Clip):
            check_regular(clip.path)
        with _open_file(clip) as file:
            check_whole(file)
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError("file is missing") from None
    except OSError as error:
        raise ValueError(f"file can't be read: {error.strerror}") from None


def _open_file(clip: Clip | bytes) -> IO[bytes]:
    return io.BytesIO(clip) if isinstance(clip, bytes) else clip.path.open("rb")


# The streams, and the part of them that is read. --------------------------------------------------


class _Stretch(NamedTuple):
    """The part of a file that is read, in s.

    origin: the time of the first sample of the file. begin, end, length: counted from there.
    declared: whether the file declares its length, which is else measured.
    """

    origin: float
    begin: float
    end: float
    length: float
    declared: bool


def _select_streams(container: InputContainer, pictures: bool, sound: bool) -> list[Stream]:
    """Return the first video stream and the first sound stream, as far as they are requested."""
    streams: list[Stream] = []
    if pictures:
        for video in container.streams.video:
            if video.codec_context and video.codec_context.width:
                streams.append(video)
                break
        else:
            raise ValueError(NO_FRAMES)
    if sound and container.streams.audio:
        for audio in container.streams.audio:
            if audio.codec_context:
                streams.append(audio)
                break
        else:
            raise ValueError(NO_DECODER)
    return streams


def _find_stretch(
    clip: Clip | bytes,
    container: InputContainer,
    streams: Sequence[Stream],
    packing: Packing,
) -> _Stretch:
    """Return the event of the clip with `packing.crop`, else the whole file."""
    origin = (container.start_time or 0) / av.time_base
    length = (container.duration or 0) / av.time_base
    declared = _declares_length(clip, container)
    if not declared:
        length = _measure_end(container, streams) - origin
    begin = 0.0
    end = length
    if packing.crop and isinstance(clip, Clip):
        begin = clip.start
        end = min(clip.end or length, length)
    if end - begin > MAX_SECONDS:
        raise ValueError("longer than the bound of an hour")
    if begin >= end > 0:
        raise ValueError("the event lies after the end of the file")
    return _Stretch(origin, begin, end, length, declared)


def _declares_length(clip: Clip | bytes, container: InputContainer) -> bool:
    """Return whether the length of a file is declared in it.

    FFmpeg guesses that of AAC in ADTS and of most MP3s from the bit rate at their start, which is
    wrong by ten times for sound that starts with silence.
    """
    if container.format.name == "mp3":
        with _open_file(clip) as file:
            return has_mp3_length(file)
    return bool(container.duration) and container.format.name != "aac"


def _declared_end(stream: Stream) -> float:
    """Return the end that a stream declares, in s; 0 if it declares none."""
    if not stream.duration or not stream.time_base:
        return 0.0
    return float(stream.duration * stream.time_base)


def _measure_end(container: InputContainer, streams: Sequence[Stream]) -> float:
    """Return the end of the last packet in s, for files that declare no length."""
    ends = []
    for packet in container.demux(streams):
        if packet.pts is not None and packet.time_base:
            end = packet.pts + (packet.duration or 0)
            ends.append(float(end * packet.time_base))
    container.seek(0)
    return max(ends, default=0.0)


# One pass over the packets. -----------------------------------------------------------------------


def _make_sink(stream: Stream, stretch: _Stretch, packing: Packing) -> Sink:
    stream.codec_context.thread_count = 1  # codec threads gain nothing here; processes do
    if isinstance(stream, VideoStream):
        end = stretch.end
        declared = _declared_end(stream)  # the sound is often a little longer
        if declared > stretch.begin:
            end = min(end, declared)
        return Frames(stretch.begin, end, packing)
    rate = min(packing.sample_rate, stream.rate)
    raw_floats = stream.codec_context.name.startswith("pcm_f")
    return Samples(stretch.begin, stretch.end, rate, raw_floats)


def _read_packets(
    container: InputContainer,
    streams: Sequence[Stream],
    sinks: Mapping[int, Sink],
    origin: float,
    decode: bool,
) -> set[int]:
    """Feed the sinks. Returns the streams whose sink still waits when the file ends."""
    videos = {stream.index: stream for stream in streams if isinstance(stream, VideoStream)}
    unfinished = set(sinks)
    for packet in container.demux(streams):
        index = packet.stream_index
        if index not in unfinished:
            continue
        sink = sinks[index]
        if packet.size:
            sink.last = packet
        if isinstance(sink, Frames):
            is_needed = sink.may_show(packet, origin)
            videos[index].codec_context.skip_frame = "DEFAULT" if is_needed else "NONREF"
        pieces: Sequence[Any] = [packet]
        if decode or packet.is_corrupt:
            pieces = packet.decode()
        for piece in pieces:
            if not isinstance(piece, (VideoFrame, AudioFrame, Packet)):
                continue
            if piece.pts is None or not piece.time_base:
                continue
            time = float(piece.pts * piece.time_base) - origin
            if not sink.add(piece, time):
                unfinished.discard(index)
                break
        if not unfinished:
            break
    return unfinished


def _check_not_truncated(
    streams: Sequence[Stream],
    sinks: Mapping[int, Sink],
    unfinished: set[int],
    stretch: _Stretch,
) -> None:
    """Raise ValueError if a stream ended well before its declared end, or within a packet."""
    ends = {stream.index: _declared_end(stream) for stream in streams}
    if not stretch.declared:
        ends = dict.fromkeys(ends, 0.0)
    if not any(ends.values()) and len(unfinished) == len(streams):
        # Only the file as a whole declares a length: the longest stream has to reach it.
        longest = max(streams, key=lambda stream: sinks[stream.index].reached)
        ends[longest.index] = stretch.length
    for index in unfinished:
        tolerance = max(0.5, 0.05 * ends[index])
        if sinks[index].reached < min(ends[index], stretch.end) - tolerance:
            raise ValueError(CUT_OFF)
    for stream in streams:
        last = sinks[stream.index].last
        if last is None:
            continue
        declared = 0
        if stream.codec_context.name.startswith(FRAMED):
            declared = count_declared_bytes(bytes(last)[:6])
        if last.is_corrupt or last.size < declared:
            raise ValueError(CUT_OFF)


def _collect(sinks: Iterable[Sink]) -> DecodedClip:
    frames = None
    sound = None
    for sink in sinks:
        if isinstance(sink, Frames):
            frames = sink.finish()
        else:
            sound = sink.finish()
    return DecodedClip(frames, sound)
