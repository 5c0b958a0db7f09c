"""A Dataset that opens and decodes the files of each sample, as other code bases have it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def write_files() -> None:
    """Write the training samples as files, one per medium, and the list files.txt."""
    from umemma.data import shard_reader
    from umemma.system.storage import Store

    store = Store("data/shards/digits")
    index = shard_reader.read_index(store)
    Path("files").mkdir()
    lines = []
    for record in shard_reader.read_split(store, index, "train"):
        for name, suffix in (("audio", "flac"), ("image", "png")):
            medium = record.media[name]
            assert isinstance(medium, bytes)
            Path(f"files/{record.key}.{suffix}").write_bytes(medium)
        lines.append(f"{record.key} {record.label}")
    Path("files.txt").write_text("\n".join(lines))


class FileDataset:
    """The samples that `write_files` wrote, as other code bases read them."""

    def __init__(self) -> None:
        import torchaudio.transforms
        from torchvision import transforms

        self.lines = [line.split() for line in Path("files.txt").read_text().splitlines()]
        self.mel_spectrogram = torchaudio.transforms.MelSpectrogram(
            8000,
            n_fft=256,
            win_length=256,
            hop_length=200,
            n_mels=40,
        )
        self.transform = transforms.Compose(
            [
                transforms.Resize((16, 16)),
                transforms.ToTensor(),
                transforms.Normalize(0.5, 0.25),
            ]
        )

    def __len__(self) -> int:
        return len(self.lines)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor, int]:
        import soundfile
        import torch
        from PIL import Image

        key, label = self.lines[number]
        samples, _ = soundfile.read(f"files/{key}.flac", dtype="float32")
        padded = torch.zeros(6400)
        count = min(len(samples), 6400)
        padded[:count] = torch.from_numpy(samples)[:count]
        log_mel = torch.log(self.mel_spectrogram(padded) + 1e-5)
        audio = (log_mel - log_mel.mean()) / (log_mel.std() + 1e-3)
        with Image.open(f"files/{key}.png") as picture:
            image = self.transform(picture)
        return audio[None], image, int(label)
