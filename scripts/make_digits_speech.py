"""Remake umemma/datasets/digits_speech.parquet: the spoken half of the embedded `digits` dataset.

Needs Debian's espeak-ng (1.51 made the shipped file); nothing else in umemma needs it:

    apt-get install espeak-ng && python scripts/make_digits_speech.py

Each espeak-ng voice variant speaks the ten digits in one English accent. Clips are trimmed of silence, resampled to
8 kHz mono and stored as FLAC, one Parquet row per clip: voice, accent, digit, flac. Same espeak-ng, same bytes.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
import torch
import torchaudio.functional

OUT = Path(__file__).resolve().parent.parent / "umemma" / "datasets" / "digits_speech.parquet"
RATE = 8000  # Hz
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


def variants() -> list[str]:
    """File names of espeak-ng's voice variants, sorted."""
    listing = subprocess.run(
        ["espeak-ng", "--voices=variant"], check=True, capture_output=True, text=True
    ).stdout
    files = {
        line[line.index("!v/") + 3 :].split("  ")[0].strip()
        for line in listing.splitlines()
        if "!v/" in line
    }
    return sorted(files - NOT_A_SPEAKER)


def speak(word: str, voice: str) -> np.ndarray:
    """(T,) int16 at 8 kHz: silence trimmed at 2 % of the peak, peak at half of full scale."""
    wav = subprocess.run(
        ["espeak-ng", "-v", voice, "--stdout", word], check=True, capture_output=True
    ).stdout
    pcm = np.frombuffer(wav[44:], dtype="<i2").astype(
        np.float32
    )  # --stdout leaves the sizes in the header unset
    (source_rate,) = np.frombuffer(wav[24:28], dtype="<u4")
    sound = torchaudio.functional.resample(torch.from_numpy(pcm), int(source_rate), RATE).numpy()
    loud = np.flatnonzero(np.abs(sound) > 0.02 * np.abs(sound).max())
    sound = sound[loud[0] : loud[-1] + 1]
    return np.round(sound / np.abs(sound).max() * 16384).astype(np.int16)


def main() -> None:
    rows, heard = [], set()
    for number, variant in enumerate(variants()):
        accent = ACCENTS[number % len(ACCENTS)]
        clips = [speak(word, f"{accent}+{variant}") for word in WORDS]
        fingerprint = hashlib.sha256(b"".join(clip.tobytes() for clip in clips)).digest()
        if (
            fingerprint in heard or max(map(len, clips)) > 1.2 * RATE
        ):  # the same voice again, or a drawl
            print(f"left out: {variant} ({accent})")
            continue
        heard.add(fingerprint)
        for digit, clip in enumerate(clips):
            flac = io.BytesIO()
            soundfile.write(
                flac, clip, RATE, format="FLAC", subtype="PCM_16", compression_level=1.0
            )
            rows.append(
                {"voice": variant, "accent": accent, "digit": digit, "flac": flac.getvalue()}
            )
    schema = pa.schema(
        [
            ("voice", pa.string()),
            ("accent", pa.string()),
            ("digit", pa.int8()),
            ("flac", pa.binary()),
        ]
    )
    pq.write_table(
        pa.Table.from_pylist(rows, schema),
        OUT,
        compression="none",
        use_dictionary=["voice", "accent"],
    )
    print(f"{OUT.name}: {len(rows) // 10} voices, {OUT.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
