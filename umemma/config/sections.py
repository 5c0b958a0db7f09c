"""The sections of params.yaml other than the two trainings."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    model_validator,
)

from umemma.errors import UserError
from umemma.presets import PRESETS
from umemma.types import (
    MODALITY_NAME,
    RESERVED_NAMES,
    BrokenPolicy,
    InputSpec,
    Packing,
    Plain,
    PositiveFloat,
    PositiveInt,
)
from umemma.validation import validate

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0)]
Names = Annotated[tuple[str, ...], Field(strict=False)]
FoldNumber = NonNegativeInt | Literal[""]  # "" where the data has no folds


def _name_kinds(value: Any) -> Any:
    """Return {name: kind}; in a plain list each modality is named like its kind."""
    if not isinstance(value, list | tuple):
        return value
    if not all(isinstance(name, str) for name in value):
        raise ValueError("has to be a list of names, or {name: kind}")
    if len(set(value)) < len(value):
        raise ValueError("has to name each modality once")
    return {name: name for name in value}


def _check_names(value: dict[str, str]) -> dict[str, str]:
    for name in value:
        if not MODALITY_NAME.fullmatch(name) or name in RESERVED_NAMES:
            raise ValueError(
                f"{name!r} can't be the name of a modality: use letters, digits and '_', and none "
                "of the words that mean something else, such as 'json', 'key' or 'train'"
            )
    return value


def _shorten_kinds(value: dict[str, str]) -> Any:
    """Return the plain list where it says as much."""
    if all(name == kind for name, kind in value.items()):
        return list(value)
    return value


# {name: kind}, in the order of the settings.
Modalities = Annotated[
    dict[str, str],
    BeforeValidator(_name_kinds),
    AfterValidator(_check_names),
    PlainSerializer(_shorten_kinds),
]


class Preprocess(Plain):
    """How records become shards.

    shard_size: samples per shard.
    max_failures: the share of samples that may fail, or have a broken medium, before the stage
        fails.
    broken: what happens to a medium that cannot be read: its modality is absent, or its sample
        fails.
    media: what of the raw media goes into the shards.
    options: the options of the dataset, which validates them itself.
    """

    shard_size: PositiveInt = 1000
    max_failures: Fraction = 0.0
    broken: BrokenPolicy = "absent"
    media: Packing = Packing()
    options: dict[str, Any] = {}


class Lora(Plain):
    """Low-rank adapters. Reference: Hu et al., LoRA, arXiv 2106.09685.

    The output of an adapter is scaled by alpha / rank.
    """

    rank: PositiveInt = 8
    alpha: PositiveFloat = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Encoder(Plain):
    """The encoder of one modality: its name, its input, its weights and how it is trained.

    name: such as `cnn:small` or `timm:resnet18`; a plain string stands for a section with only
        this key.
    input: changes to the input that the encoder asks for.
    weights: `none`, `pretrained`, or the path of a file. null is the family's default: pretrained
        where the family is known for its weights, otherwise none.
    tune: `full`, `frozen` (the weights stay as they are, in evaluation mode) or `lora`.
    pool: how the features of the frames of a video become one.
    same_as: another modality of the same kind, whose encoder this one is, weights included. It
        stands without any other key.
    kind: that of the modality, set from `modalities`. null = the modality is named like its kind.
    """

    model_config = ConfigDict(json_schema_extra={"type": ["string", "object"]})

    name: str = "cnn:small"
    input: dict[str, Any] = {}
    weights: str | None = None
    tune: Literal["full", "frozen", "lora"] = "full"
    lora: Lora = Lora()
    pool: Literal["mean", "attention"] = "mean"
    same_as: str | None = None
    kind: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value}
        return value

    def describe(self) -> dict[str, Any]:
        """Return the settings as a model's description has them, without what is not set.

        So models from before there were kinds stay valid.
        """
        unset = {name for name in ("same_as", "kind") if getattr(self, name) is None}
        return self.model_dump(mode="json", exclude=unset)

    def adapt(self, spec: InputSpec, modality: str) -> InputSpec:
        """Return the encoder's InputSpec with the changes of `input`.

        Raises UserError for a key that this kind of input does not have.
        """
        changed = spec.model_dump() | self.input
        return validate(type(spec), changed, "settings", f"encoders.{modality}.input")


class Evaluate(Plain):
    """The evaluation grid.

    split: the split that is evaluated.
    ratios: the missing ratios, shares of the samples that lose a modality.
    draws: the number of seeded draws in addition to the expectation over all draws.
    bootstrap: the number of bootstrap resamples behind an interval.
    metrics: the first one leads tables and curves; null selects the usual metrics of the task.
    calibrate: use the temperature and bias of each subset that were fitted on the validation split,
        where they help. The thresholds of labels are those of the model either way.
    smallest_effect: the smallest difference of the leading metric that the report gives advice on;
        0.01 is one point.
    """

    split: Literal["train", "val", "test"] = "test"
    ratios: Annotated[tuple[Fraction, ...], Field(strict=False)] = tuple(i / 10 for i in range(11))
    draws: NonNegativeInt = 5
    bootstrap: PositiveInt = 1000
    batch_size: PositiveInt = 256
    metrics: Names | None = None
    calibrate: bool = True
    smallest_effect: Fraction = 0.01

    def check_split(self) -> None:
        """Raise UserError where a calibration would be judged by the samples it was fitted on."""
        if self.split == "val" and self.calibrate:
            raise UserError(
                "the calibration was fitted on val, so results on val would look too good",
                "evaluate.split",
                "Set evaluate.calibrate=false, or evaluate another split.",
                usage=True,
            )


class Compare(Plain):
    """Which methods `umemma compare` trains and compares.

    presets: the presets to train.
    baseline: the preset that the method is tested against; null tests it against all others.
    seeds: one run per preset and seed.
    folds: one run per preset, seed and fold; `all` is every fold that the data has, and where it
        has none the one run without. DVC needs a list, which is [""] without folds.
    learning_rates: the rates tried for each training, of uni-modal models and of ensembles alike;
        validation selects the best of each. An empty list uses those of the settings.
    train: the conditions of training, each in place of missing.train: `complete`, `audio=0.7`, or
        `audio=0.7,image=0.3` for several missing ratios at once.
    """

    presets: Names = tuple(PRESETS)
    baseline: str | None = None
    seeds: Annotated[tuple[int, ...], Field(strict=False)] = (0, 1, 2)
    folds: Literal["all"] | Annotated[tuple[FoldNumber, ...], Field(strict=False)] = "all"
    learning_rates: Annotated[tuple[PositiveFloat, ...], Field(strict=False)] = ()
    train: Names = ("complete",)


class MissingRatios(Plain):
    """The modalities that are removed on purpose, and from which share of the samples.

    train: {modality: share of the training samples that lose it}. The key "audio|image" removes
        one of the two from each of these samples, "audio+image" removes both.
    val: the same for the validation samples, which select the epoch and fit the calibration. null
        means as in `train`, {} means that nothing is removed.
    """

    train: dict[str, Fraction] = {}
    val: dict[str, Fraction] | None = None


class Machine(Plain):
    """What depends on the machine. It changes no result, so no stage's output depends on it.

    memory: GiB of decoded samples of a split that a process may cache. The samples of a larger
        split are decoded for each batch.
    workers: processes that decode, per training process; null chooses the number automatically.
    device: where models are trained and evaluated: `cpu`, `cuda` or `cuda:1`; null uses a GPU where
        there is one. Each of several processes has a GPU of its own with `cuda`.
    threads: threads that compute, per training process; null uses the cores that the process may
        use. OMP_NUM_THREADS in the environment wins over it. Another number rounds differently.
    cache_decoded: whether samples that are decoded into memory are also cached on disk, up to
        `memory` GiB for each split, where the next training and the evaluation find them.
    checkpoint: seconds between checkpoints.
    keep: how many checkpoints to keep.
    deterministic: true uses only kernels that repeat to the bit; warn also uses others, with a
        warning; false uses any. With warn and false, runs on the same machine may differ in
        rounding.
    """

    memory: NonNegativeFloat = 4.0
    workers: NonNegativeInt | None = None
    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] | None = None
    threads: PositiveInt | None = None
    cache_decoded: bool = True
    checkpoint: NonNegativeFloat = 60.0
    keep: PositiveInt = 2
    deterministic: bool | Literal["warn"] = True
