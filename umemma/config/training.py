"""The sections `pretrain` and `finetune`: what one run of the training loop needs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from umemma.config.sections import Fraction, NonNegativeFloat
from umemma.errors import UserError, unknown_name
from umemma.presets import PRESETS, Balance, FusionName, Init, Mma, Switches, Train
from umemma.types import Plain, PositiveFloat, PositiveInt
from umemma.validation import validate

# How the loss weighs classes.
CLASS_WEIGHTS = ("class_weights", "pos_weight", "logit_adjustment")
# Settings that older models don't have.
SINCE = ("select", *CLASS_WEIGHTS)


class LearningRate(Plain):
    """The learning rate of a part of a model. null uses that of the enclosing section."""

    learning_rate: PositiveFloat | None = None


class Rates(LearningRate):
    """The learning rate and weight decay of a part. null uses those of the enclosing section."""

    weight_decay: NonNegativeFloat | None = None


class PartRates(Plain):
    """The rates of the parts of a model.

    encoder: the encoders.
    adapters: the low-rank adapters in them (`tune: lora`).
    head: the classifiers.
    absence: the learned vectors that replace absent modalities. They have no weight decay.
    """

    encoder: Rates = Rates()
    adapters: Rates = Rates()
    head: Rates = Rates()
    absence: LearningRate = LearningRate()


class ModalityRates(Rates, PartRates):
    """The rates of one modality in fine-tuning: for its whole model, or for one part of it."""


class Training(PartRates):
    """What one run of the training loop needs.

    batch_size: samples of a step, over all processes.
    learning_rate: the peak learning rate of AdamW, reached after the warm-up.
    weight_decay: applies to matrices only; biases, norms and absence vectors have none.
    warmup: the share of all steps in which the learning rate rises.
    patience: early stopping: epochs without a better validation score before training stops.
    micro_batch: gradient accumulation: samples that a process takes at a time; null takes all.
    ema: the decay per step of an exponential moving average of the weights; 0 keeps none.
    precision: the number format that the encoders compute in.
    keep_start: by how many standard errors the validation score of the best epoch has to exceed
        that of the weights that training starts from; otherwise these are kept. null never keeps
        them.
    select: the metric of validation that selects the best epoch, such as `f1_macro`, `map` or
        `log_loss`; labels are predicted by thresholds that are fitted to it. null is accuracy or,
        for sets of labels, `f1_samples`; where classes are weighed, it is `balanced_accuracy`.
    class_weights: of single classes, the weight of a sample in the loss by its class: `balanced`
        weighs all classes alike, {class: weight} those that are named, against 1 of the others.
    pos_weight: of sets of labels, the weight in the loss of a label that a sample has, against 1 of
        one that it lacks: a number, {label: number}, or `balanced`, how many samples lack it for
        each that has it, up to a bound.
    logit_adjustment: tau: training adds tau times the logarithm of each class's share to its logit.
        Reference: Menon et al., ICLR 2021, arXiv 2007.07314.
    """

    epochs: PositiveInt = 20
    batch_size: PositiveInt = 64
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.05
    warmup: Fraction = 0.1
    patience: PositiveInt = 10
    clip_norm: PositiveFloat = 1.0
    micro_batch: PositiveInt | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    keep_start: NonNegativeFloat | None = None
    select: str | None = None
    class_weights: Literal["balanced"] | dict[str, PositiveFloat] | None = None
    pos_weight: Literal["balanced"] | PositiveFloat | dict[str, PositiveFloat] | None = None
    logit_adjustment: NonNegativeFloat = 0.0

    @property
    def weighs_classes(self) -> bool:
        """Whether the loss treats classes, or the labels that a sample has, differently."""
        has_weights = self.class_weights is not None or self.pos_weight is not None
        return has_weights or self.logit_adjustment > 0

    def describe(self) -> dict[str, Any]:
        """Return the settings that a model depends on.

        Those of `SINCE` that have their default are left out, so that models from before there were
        such settings stay valid.
        """
        data = self.model_dump(mode="json")
        for name in SINCE:
            if getattr(self, name) == type(self).model_fields[name].default:
                del data[name]
        return data

    def rate(self, part: str, modality: str) -> tuple[float, float]:
        """Return (learning rate, weight decay) of a part of a modality's model.

        The nearest setting wins: the part of the modality, the modality, the part, the section.
        """
        places: list[Any] = [getattr(self, part), self]
        modality_rates = self._modality_rates(modality)
        if modality_rates is not None:
            places = [getattr(modality_rates, part), modality_rates, *places]
        learning_rate = _first_set(places, "learning_rate")
        if part == "absence":
            return learning_rate, 0.0
        return learning_rate, _first_set(places, "weight_decay")

    def _modality_rates(self, modality: str) -> ModalityRates | None:
        return None


def _first_set(places: list[Any], name: str) -> float:
    """Return the value of the first place that has one. The last place, the section, always has."""
    for place in places:
        value: float | None = getattr(place, name, None)
        if value is not None:
            return value
    raise ValueError(f"no {name} is set")


class Pretrain(Training):
    """Uni-modal training: one classifier per modality.

    modalities: {modality: settings of this section that differ for it}.
    """

    modalities: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _check(self) -> Pretrain:
        for modality in self.modalities:
            self.of(modality)
        return self

    def of(self, modality: str) -> Training:
        """Return the settings of one modality. Raises UserError for an unknown setting."""
        data = self.model_dump(exclude={"modalities"})
        for name, value in self.modalities.get(modality, {}).items():
            if isinstance(value, dict) and isinstance(data.get(name), dict):
                data[name] = data[name] | value
            else:
                data[name] = value
        return validate(Training, data, "settings", f"pretrain.modalities.{modality}")


class Ogm(Plain):
    """On-the-fly gradient modulation. Reference: Peng et al., CVPR 2022, arXiv 2203.15332.

    alpha: how strongly the modality that learns faster is slowed down.
    noise: add noise of the size of the gradient (the GE of OGM-GE). It is off by default, because
        validation on `digits` was better without it; see docs/numbers.md.
    """

    alpha: PositiveFloat = 0.5
    noise: bool = False


class Umt(Plain):
    """Uni-modal teachers. Reference: Du et al., ICML 2023, arXiv 2305.01233.

    weight: the weight of the squared distance to the features of the teachers.
    """

    weight: PositiveFloat = 1.0


class Simmlm(Plain):
    """SimMLM. Reference: Li et al., ICCV 2025, arXiv 2507.19264.

    weight: the weight of the More vs. Fewer ranking loss; 0.1 is that of the authors' code.
    """

    weight: PositiveFloat = 0.1


class ScratchBudget(Plain):
    """The epochs and the learning rate of a fine-tuning that starts from scratch."""

    epochs: PositiveInt = 20
    learning_rate: PositiveFloat = 1e-3


class Finetune(Training):
    """Training of the ensemble.

    preset: a named method. It sets the five switches `init`, `mma`, `train`, `balance` and `fusion`
        that are null; a switch that is set takes precedence.
    modalities: {modality: the rates of its model}.
    pattern_weights: {pattern: weight in the loss}, such as {"audio+image": 2}; null weighs all
        patterns alike.
    simmlm: applies with `fusion: gated` and `mma: all`.
    absent: what an absent modality becomes with `fusion: mean`, see umemma/missing.py.
    start: what `init: unimodal` makes of the uni-modal models: `average`, the mean of their logits,
        or `pooled`, a weighted mean, see umemma/training/pooling.py. Only `fusion: mean` is pooled.
    keep_start: as above; with `init: scratch` there is nothing to keep.
    scratch: epochs and learning rate with `init: scratch`.
    """

    modalities: dict[str, ModalityRates] = {}
    preset: str = "ume-mma"
    init: Init | None = None
    mma: Mma | None = None
    train: Train | None = None
    balance: Balance | None = None
    fusion: FusionName | None = None
    ogm: Ogm = Ogm()
    umt: Umt = Umt()
    simmlm: Simmlm = Simmlm()
    pattern_weights: dict[str, NonNegativeFloat] | None = None
    absent: Literal["zero", "blank", "learned"] = "learned"
    start: Literal["average", "pooled"] = "pooled"
    keep_start: NonNegativeFloat | None = 1.0
    scratch: ScratchBudget = ScratchBudget()

    def _modality_rates(self, modality: str) -> ModalityRates | None:
        return self.modalities.get(modality)

    @property
    def absence_rule(self) -> str:
        """What an absent modality becomes: `absent`, or another fusion, which has its own rule."""
        fusion = self.switches().fusion
        if fusion == "mean":
            return self.absent
        return fusion

    def switches(self) -> Switches:
        """Return the five switches: those set in this section, and the others as in the preset.

        Raises UserError for an unknown preset and for switches that contradict each other.
        """
        if self.preset not in PRESETS:
            raise unknown_name("preset", self.preset, PRESETS, "finetune.preset")
        preset = PRESETS[self.preset]
        switches = Switches(
            self.init or preset.init,
            self.mma or preset.mma,
            self.train or preset.train,
            self.balance or preset.balance,
            self.fusion or preset.fusion,
        )
        _check_consistent(switches)
        return switches


def _check_consistent(switches: Switches) -> None:
    """UserError for switches that contradict each other."""
    if switches.init == "scratch" and switches.train != "all":
        raise UserError(
            f"init: scratch with train: {switches.train} leaves the encoders untrained",
            "finetune",
            "Set finetune.train to all, or finetune.init to unimodal.",
            usage=True,
        )
    if switches.balance != "none" and switches.train != "all":
        raise UserError(
            f"balance: {switches.balance} with train: {switches.train} has no encoder to balance",
            "finetune",
            "Set finetune.train to all, or finetune.balance to none.",
            usage=True,
        )
    if switches.fusion != "mean" and switches.train == "none":
        raise UserError(
            f"fusion: {switches.fusion} with train: none leaves the fusion untrained",
            "finetune",
            "Set finetune.train to all or head, or finetune.fusion to mean.",
            usage=True,
        )
    if switches.fusion != "mean" and switches.balance == "ogm-ge":
        raise UserError(
            f"fusion: {switches.fusion} with balance: ogm-ge has no modality alone to compare",
            "finetune",
            "Set finetune.balance to none or umt, or finetune.fusion to mean.",
            usage=True,
        )
