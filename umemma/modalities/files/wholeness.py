"""Whether a file of sound or video is whole, by what it declares and by how it ends."""

from __future__ import annotations

import io
from typing import IO

CUT_OFF = "cut off: it ends before its declared length"
WAVE64 = b"riff\x2e\x91\xcf\x11"  # the start of the GUID that a Wave64 file begins with
OGG_PAGE = 27 + 255 + 255 * 255  # bytes, at most
OGG_END = 4  # the flag of the last page
# kbit/s of MPEG audio by {(MPEG-1, layer): table}, from the index in a frame header; 0 = not known.
BIT_RATES = {
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 0),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 0),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160, 0),
}
SAMPLE_RATES = (44100, 48000, 32000)  # of MPEG-1
HALVINGS = {3: 0, 2: 1, 0: 2}  # of a sample rate, by the version: MPEG-1, MPEG-2, MPEG-2.5


def check_whole(file: IO[bytes]) -> None:
    """Raise ValueError where a file of sound or video ends before it says.

    WAVE, AVI, AIFF, AU and Wave64 declare their size first, and FFmpeg silently corrects it. Ogg
    declares no size, but marks its last page (RFC 3533, section 6).
    """
    head = file.read(24)
    size = file.seek(0, io.SEEK_END)
    if head.startswith(b"OggS"):
        file.seek(max(0, size - OGG_PAGE))
        if not _has_ogg_end(file.read()):
            raise ValueError(CUT_OFF)
        return
    declared = 0
    if head.startswith(b"RIFF"):
        declared = 8 + int.from_bytes(head[4:8], "little")
    elif head.startswith(b"FORM"):
        declared = 8 + int.from_bytes(head[4:8], "big")
    elif head.startswith(WAVE64):
        declared = int.from_bytes(head[16:24], "little")
    elif head.startswith(b".snd") and head[8:12] != b"\xff\xff\xff\xff":
        declared = int.from_bytes(head[4:8], "big") + int.from_bytes(head[8:12], "big")
    is_unknown = head[4:8] == b"\xff\xff\xff\xff"
    if not is_unknown and declared > size + 1:
        raise ValueError(CUT_OFF)


def _has_ogg_end(tail: bytes) -> bool:
    """Return whether the last page in the last bytes of an Ogg file is whole and marked."""
    start = tail.rfind(b"OggS")
    header = tail[start : start + 27]
    if start < 0 or len(header) < 27:
        return False
    lengths = tail[start + 27 : start + 27 + header[26]]  # of the segments of the page
    end = start + 27 + header[26] + sum(lengths)
    return bool(header[5] & OGG_END) and end <= len(tail)


def has_mp3_length(file: IO[bytes]) -> bool:
    """Return whether the first frame of an MP3 holds the number of frames: Xing's or VBRI's tag."""
    head = file.read(10)
    start = 0
    if head.startswith(b"ID3"):  # https://id3.org/id3v2.4.0-structure: 4 times 7 bits
        start = 10 + (head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9])
    file.seek(start)
    frame = file.read(64)
    return any(tag in frame for tag in (b"Xing", b"Info", b"VBRI"))


def count_declared_bytes(frame: bytes) -> int:
    """Return the size that the header of a frame of MPEG audio or AAC declares; 0 without one.

    These can be files without any declared length, so that only their last frame tells of a cut.
    ISO/IEC 11172-3, section 2.4.2.3, and 13818-7, section 6.2.
    """
    if len(frame) < 6 or frame[0] != 0xFF or frame[1] < 0xE0:
        return 0
    version = frame[1] >> 3 & 3
    layer = 4 - (frame[1] >> 1 & 3)  # 4: AAC in ADTS
    if layer == 4:
        return (frame[3] & 3) << 11 | frame[4] << 3 | frame[5] >> 5
    rate_index = frame[2] >> 2 & 3
    bit_rates = BIT_RATES.get((version == 3, layer))
    if bit_rates is None or rate_index == 3 or version not in HALVINGS:
        return 0
    sample_rate = SAMPLE_RATES[rate_index] >> HALVINGS[version]
    samples = 576 if layer == 3 and version != 3 else 1152
    return samples // 8 * 1000 * bit_rates[frame[2] >> 4] // sample_rate
