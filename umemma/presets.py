"""The named methods: UME-MMA and its baselines, as settings of five switches."""

from __future__ import annotations

from typing import Literal, NamedTuple

Init = Literal["scratch", "unimodal"]
Mma = Literal["none", "drop", "all"]
Train = Literal["all", "head", "none"]
Balance = Literal["none", "ogm-ge", "umt"]
FusionName = Literal[
    "mean",
    "fill-zero",
    "fill-mean",
    "fill-neighbour",
    "retrieve",
    "pattern-head",
    "embracenet",
    "gated",
]

CUSTOM = "custom"


class Switches(NamedTuple):
    """What distinguishes the methods.

    init: where the encoders start.
    mma: how training shows missing modalities: not at all, one pattern drawn per sample, or all.
    train: which parameters are trained.
    balance: what keeps one modality from learning at the cost of the others.
    fusion: how features become logits: the mean of the logits of each modality, or a fusion of the
        field, see umemma/models/fusions.py.
    """

    init: Init
    mma: Mma
    train: Train
    balance: Balance
    fusion: FusionName = "mean"

    @property
    def preset(self) -> str:
        """The name of the preset with these switches, or "custom" where none has them."""
        for name, switches in PRESETS.items():
            if switches == self:
                return name
        return CUSTOM


# All six combinations of (scratch, unimodal) x (none, drop, all) have a name, so that two methods
# can differ by one switch.
PRESETS: dict[str, Switches] = {
    "late-fusion": Switches("scratch", "none", "all", "none"),
    "modality-dropout": Switches("scratch", "drop", "all", "none"),
    "late-fusion-mma": Switches("scratch", "all", "all", "none"),
    "ogm-ge": Switches("scratch", "none", "all", "ogm-ge"),
    "umt": Switches("scratch", "none", "all", "umt"),
    "ume": Switches("unimodal", "none", "none", "none"),
    "ume-finetune": Switches("unimodal", "none", "all", "none"),
    "ume-dropout": Switches("unimodal", "drop", "all", "none"),
    "frozen-complete": Switches("unimodal", "none", "head", "none"),
    "frozen": Switches("unimodal", "all", "head", "none"),
    "ume-mma": Switches("unimodal", "all", "all", "none"),
    # What well-known tools do: train on what is there, and fill the hole in the answer.
    "fill-zero": Switches("scratch", "none", "all", "none", "fill-zero"),
    "fill-mean": Switches("scratch", "none", "all", "none", "fill-mean"),
    "fill-neighbour": Switches("scratch", "none", "all", "none", "fill-neighbour"),
    "retrieve": Switches("scratch", "none", "all", "none", "retrieve"),
    # Published rivals.
    "pattern-head": Switches("scratch", "all", "all", "none", "pattern-head"),
    "embracenet": Switches("scratch", "drop", "all", "none", "embracenet"),
    "simmlm": Switches("unimodal", "all", "all", "none", "gated"),
}
