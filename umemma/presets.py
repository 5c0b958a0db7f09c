"""The named methods: UME-MMA and its baselines, as settings of four switches."""

from __future__ import annotations

from typing import Literal

Init = Literal["scratch", "unimodal"]
Mma = Literal["none", "drop", "all"]
Train = Literal["all", "head", "none"]
Balance = Literal["none", "ogm-ge", "umt"]

# (init, mma, train, balance) of each preset:
#   init     where the encoders start
#   mma      how training shows missing modalities
#   train    which parameters are trained
#   balance  what keeps one modality from learning at the cost of the others
# All six combinations of (scratch, unimodal) x (none, drop, all) have a name, so that two methods
# can differ by one switch.
PRESETS: dict[str, tuple[Init, Mma, Train, Balance]] = {
    "late-fusion": ("scratch", "none", "all", "none"),
    "modality-dropout": ("scratch", "drop", "all", "none"),
    "late-fusion-mma": ("scratch", "all", "all", "none"),
    "ogm-ge": ("scratch", "none", "all", "ogm-ge"),
    "umt": ("scratch", "none", "all", "umt"),
    "ume": ("unimodal", "none", "none", "none"),
    "ume-finetune": ("unimodal", "none", "all", "none"),
    "ume-dropout": ("unimodal", "drop", "all", "none"),
    "frozen-complete": ("unimodal", "none", "head", "none"),
    "frozen": ("unimodal", "all", "head", "none"),
    "ume-mma": ("unimodal", "all", "all", "none"),
}
