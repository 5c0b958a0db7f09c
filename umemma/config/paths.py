"""Where the files of a dataset are."""

from __future__ import annotations

from pathlib import Path


class Paths:
    """The files of a dataset, relative to the project root, which is the current directory.

    name: that of the settings, by default the dataset's.
    place: a subfolder of models/ and results/, in which `umemma compare` keeps one of its runs. The
    presets of a place share the uni-modal models there, so an ensemble is named after its preset.
    The models of a trial of `umemma tune` are no output, so they are in runs/.
    fold: a further subfolder, the number of the fold that is tested; "" for none.
    split: the one that is evaluated. The results on another than test have a subfolder of their
    own, so that they never replace those on test.
    """

    # The files in the folder of a trained model.
    WEIGHTS = "model.safetensors"
    ABOUT = "model.json"
    METRICS = "metrics.csv"

    def __init__(
        self,
        name: str,
        shards: str = "data/shards",
        place: str = "",
        preset: str = "",
        fold: int | str = "",
        split: str = "test",
    ) -> None:
        self.raw = Path("data/raw") / name
        self.shards = f"{shards.rstrip('/')}/{name}"
        self.runs = Path("runs") / name
        models = Path("models") / name
        if place.startswith("tune/"):
            models = self.runs
        self.models = models / place / str(fold)
        self.results = Path("results") / name / place / str(fold)
        if place:
            self.ensemble = self.models / preset
            self.results = self.results / preset
        else:
            self.ensemble = self.models / "ensemble"
        if split != "test":
            self.results = self.results / split

    def pretrain(self, modality: str) -> Path:
        """Return the folder of a uni-modal model."""
        return self.models / "pretrain" / modality
