"""Rebuild umemma/datasets/digits_speech.parquet, the spoken half of the embedded dataset `digits`.

It needs Debian's espeak-ng (1.51 made the shipped file); nothing else in umemma needs it:

    apt-get install espeak-ng && python scripts/make_digits_speech.py

Each espeak-ng voice variant speaks the ten digits in one English accent. Clips are trimmed of
silence, resampled to 8 kHz mono and stored as FLAC, one Parquet row per clip: voice, accent, digit,
flac. The same espeak-ng gives the same bytes.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
import torchaudio.functional

OUT = Path(__file__).resolve().parent.parent / "umemma" / "datasets" / "digits_speech.parquet"
RATE = 8000  # Hz
LONGEST = 1.2  # s; a voice with a longer clip drawls
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
ACCENTS = (
    "en",
    "en-us",
    "en-gb-scotland",
    "en-029",
    "en-gb-x-rp",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-us-nyc",
)
NOT_A_SPEAKER = {"fast", "announcer"}  # a speed test and a multi-tone effect
SCHEMA = pa.schema(
    [
        ("voice", pa.string()),
        ("accent", pa.string()),
        ("digit", pa.int8()),
        ("flac", pa.binary()),
    ]
)


def main() -> None:
    rows: list[dict[str, Any]] = []
    known_voices = set()
    for number, variant in enumerate(list_variants()):
        accent = ACCENTS[number % len(ACCENTS)]
        clips = [speak(word, f"{accent}+{variant}") for word in WORDS]
        voice_hash = hashlib.sha256(b"".join(clip.tobytes() for clip in clips)).digest()
        is_too_long = max(len(clip) for clip in clips) > LONGEST * RATE
        if voice_hash in known_voices or is_too_long:
            print(f"left out: {variant} ({accent})")
            continue
        known_voices.add(voice_hash)
        for digit, clip in enumerate(clips):
            row = {"voice": variant, "accent": accent, "digit": digit, "flac": encode_flac(clip)}
            rows.append(row)
    pq.write_table(
        pa.Table.from_pylist(rows, SCHEMA),
        OUT,
        compression="none",
        use_dictionary=["voice", "accent"],
    )
    print(f"{OUT.name}: {len(rows) // 10} voices, {OUT.stat().st_size / 1e6:.2f} MB")


def list_variants() -> list[str]:
    """Return the file names of espeak-ng's voice variants, sorted."""
    command = ["espeak-ng", "--voices=variant"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    files = set()
    for line in listing.splitlines():
        _, separator, file = line.partition("!v/")
        if separator:
            files.add(file.split("  ")[0].strip())
    return sorted(files - NOT_A_SPEAKER)


def speak(word: str, voice: str) -> np.ndarray:
    """Return (T,) int16 at 8 kHz.

    Silence is trimmed at 2 % of the peak; the peak is half of full scale.
    """
    command = ["espeak-ng", "-v", voice, "--stdout", word]
    wav = subprocess.run(command, check=True, capture_output=True).stdout
    # --stdout leaves the sizes in the header unset, so the header is cut off by its length.
    samples = np.frombuffer(wav[44:], dtype="<i2").astype(np.float32)
    (source_rate,) = np.frombuffer(wav[24:28], dtype="<u4")
    waveform = torch.from_numpy(samples)
    sound = torchaudio.functional.resample(waveform, int(source_rate), RATE).numpy()
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    sound = sound[loud[0] : loud[-1] + 1]
    return np.round(sound / np.abs(sound).max() * 16384).astype(np.int16)


def encode_flac(clip: np.ndarray) -> bytes:
    flac = io.BytesIO()
    soundfile.write(
        flac,
        clip,
        RATE,
        format="FLAC",
        subtype="PCM_16",
        compression_level=1.0,
    )
    return flac.getvalue()


if __name__ == "__main__":
    main()
