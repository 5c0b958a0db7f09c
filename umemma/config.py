"""params.yaml -> frozen, checked settings. One section per stage; unknown keys are refused with the nearest known one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from ruamel.yaml import YAML  # YAML 1.2 as DVC reads it, where 1e-3 is a number
from ruamel.yaml.error import YAMLError

from umemma.errors import UserError, unknown_name
from umemma.types import BrokenPolicy, InputSpec, Packing, Plain, parse_alternatives
from umemma.validation import fingerprint, validate

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[int, Field(gt=0)]
Names = Annotated[tuple[str, ...], Field(strict=False)]


class Preprocess(Plain):
    """Records -> shards. `options` belong to the dataset, which checks them itself."""

    shard_size: Positive = 1000  # samples per shard
    max_failures: Share = (
        0.0  # the share of samples that may fail or have a broken medium before the stage fails
    )
    broken: BrokenPolicy = (
        "absent"  # a medium that can't be read: its modality is absent, or its sample fails
    )
    media: Packing = Packing()
    options: dict[str, Any] = {}


class Lora(Plain):
    """Low-rank adapters. Reference: Hu et al., LoRA, arXiv 2106.09685; the scale is alpha / rank."""

    rank: Positive = 8
    alpha: Annotated[float, Field(gt=0)] = 16.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


class Encoder(Plain):
    """An encoder by name, what to change in the input it asks for, where its weights come from, and how it is trained.

    weights: null = as the family does (pretrained where it is known for that, else none), `none`, `pretrained`, or the
    path of a file. tune: `full`, `frozen` (as it is, in evaluation mode) or `lora`. pool: over the frames of a video.
    """

    name: str = "cnn:small"
    input: dict[str, Any] = {}
    weights: str | None = None
    tune: Literal["full", "frozen", "lora"] = "full"
    lora: Lora = Lora()
    pool: Literal["mean", "attention"] = "mean"

    @model_validator(mode="before")
    @classmethod
    def _from_string(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    def adapt(self, spec: InputSpec, modality: str) -> InputSpec:
        """The encoder's own InputSpec with the changes of `input`. UserError for a change it doesn't know."""
        return validate(
            type(spec), spec.model_dump() | self.input, "settings", f"encoders.{modality}.input"
        )


class Step(Plain):
    """A learning rate of its own; null = that of the section which this stands in."""

    learning_rate: Annotated[float, Field(gt=0)] | None = None


class Rate(Step):
    """A learning rate and a weight decay of its own; null = that of the section which this stands in."""

    weight_decay: Annotated[float, Field(ge=0)] | None = None


class Parts(Plain):
    """What the parts of a model have of their own: the encoders, the low-rank adapters in them (tune: lora), the heads, and
    the learned vectors that stand in for what is absent (which never decay)."""

    encoder: Rate = Rate()
    adapters: Rate = Rate()
    head: Rate = Rate()
    absence: Step = Step()


class ModalityRates(Rate, Parts):
    """What one modality has of its own in fine-tuning, for all of it or for a part."""


class Training(Parts):
    """What one run of the training loop needs. learning_rate is AdamW's peak, after `warmup` (a share of all steps).

    batch_size: samples of a step over all processes; a process takes them `micro_batch` at a time. ema: decay per step of
    a moving average of the weights, 0 = none. precision: what the encoders compute in. Weight decay is for matrices only:
    biases, norms and absence vectors have none.
    """

    epochs: Positive = 20
    batch_size: Positive = 64
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.05
    warmup: Share = 0.1
    patience: Positive = 10  # epochs without a better validation accuracy before stopping
    clip_norm: Annotated[float, Field(gt=0)] = 1.0
    micro_batch: Positive | None = None
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    compile: bool = False

    def rate(self, part: str, modality: str) -> tuple[float, float]:
        """(learning rate, weight decay) of a part of a modality's model; the nearest setting wins."""
        places = [getattr(self, part), self]
        if own := self._own(modality):
            places = [getattr(own, part), own, *places]
        learning_rate = next(
            place.learning_rate for place in places if place.learning_rate is not None
        )
        decays = [getattr(place, "weight_decay", None) for place in places]
        decay = next(decay for decay in decays if decay is not None)
        return learning_rate, 0.0 if part == "absence" else decay

    def _own(self, modality: str) -> ModalityRates | None:
        return None


class Pretrain(Training):
    """Uni-modal training. modalities: {modality: any of these settings}, which it has of its own."""

    modalities: dict[str, dict[str, Any]] = {}

    @model_validator(mode="after")
    def _check(self) -> Pretrain:
        for modality in self.modalities:
            self.of(modality)
        return self

    def of(self, modality: str) -> Training:
        """The settings of one modality. UserError for one that isn't known."""
        data = self.model_dump(exclude={"modalities"})
        for name, value in self.modalities.get(modality, {}).items():
            data[name] = data[name] | value if isinstance(value, dict) and name in data else value
        return validate(Training, data, "settings", f"pretrain.modalities.{modality}")


class Ogm(Plain):
    """On-the-fly gradient modulation. alpha: how strongly the modality that learns faster is held back; noise: of the size
    of the gradient, added to it (the GE; off, as validation preferred it so on `digits`, see docs/numbers.md).
    Reference: Peng et al., CVPR 2022, arXiv 2203.15332."""

    alpha: Annotated[float, Field(gt=0)] = 0.5
    noise: bool = False


class Umt(Plain):
    """Uni-modal teachers. weight: of the squared distance to their features. Reference: Du et al., ICML 2023,
    arXiv 2305.01233."""

    weight: Annotated[float, Field(gt=0)] = 1.0


class Budget(Plain):
    """epochs and learning_rate of a fine-tuning that starts from scratch."""

    epochs: Positive = 20
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3


Init = Literal["scratch", "unimodal"]
Mma = Literal["none", "drop", "all"]
Train = Literal["all", "head", "none"]
Balance = Literal["none", "ogm-ge", "umt"]

# The method and its baselines are four switches: where the encoders start, how missing modalities are shown in
# training, what is trained, and what keeps one modality from learning at the cost of the others. All six corners of
# (scratch, unimodal) x (none, drop, all) have a name, so that two methods can differ by one switch.
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


class Finetune(Training):
    """The ensemble. A switch that is null is as `preset` says; one that is set wins over the preset. modalities: {modality:
    the rates that it has of its own}."""

    modalities: dict[str, ModalityRates] = {}
    preset: str = "ume-mma"
    init: Init | None = None
    mma: Mma | None = None
    train: Train | None = None
    balance: Balance | None = None
    ogm: Ogm = Ogm()
    umt: Umt = Umt()
    pattern_weights: dict[str, Annotated[float, Field(ge=0)]] | None = (
        None  # {"audio+image": 2}; null = uniform
    )
    absent: Literal["zero", "blank", "learned"] = "learned"
    scratch: Budget = Budget()

    def _own(self, modality: str) -> ModalityRates | None:
        return self.modalities.get(modality)

    def switches(self) -> dict[str, str]:
        """{"preset", "init", "mma", "train", "balance"} as they will be; preset is "custom" where a switch departs from all."""
        if self.preset not in PRESETS:
            raise unknown_name("preset", self.preset, PRESETS, "finetune.preset")
        init, mma, train, balance = PRESETS[self.preset]
        chosen = (self.init or init, self.mma or mma, self.train or train, self.balance or balance)
        if chosen[0] == "scratch" and chosen[2] != "all":
            raise UserError(
                f"init: scratch with train: {chosen[2]} leaves the encoders untrained",
                "finetune",
                "Set finetune.train to all, or finetune.init to unimodal.",
                usage=True,
            )
        if chosen[3] != "none" and chosen[2] != "all":
            raise UserError(
                f"balance: {chosen[3]} with train: {chosen[2]} has no encoder to balance",
                "finetune",
                "Set finetune.train to all, or finetune.balance to none.",
                usage=True,
            )
        name = next((name for name, switches in PRESETS.items() if switches == chosen), "custom")
        return {
            "preset": name,
            "init": chosen[0],
            "mma": chosen[1],
            "train": chosen[2],
            "balance": chosen[3],
        }


class Evaluate(Plain):
    """The grid. ratios: shares of the test samples that lose a modality; draws: seeded draws beside the expectation.

    metrics: the first is the one that tables and curves show; null = what is usual for the task. calibrate: use the
    temperature and bias of each subset that were fitted on validation, where they help. smallest_effect: the smallest
    difference of the leading metric that the report gives advice on; 0.01 is one point.
    """

    split: Literal["train", "val", "test"] = "test"
    ratios: Annotated[tuple[Share, ...], Field(strict=False)] = tuple(i / 10 for i in range(11))
    draws: Annotated[int, Field(ge=0)] = 5
    bootstrap: Positive = 1000
    batch_size: Positive = 256
    metrics: Names | None = None
    calibrate: bool = True
    smallest_effect: Share = 0.01

    def check_split(self) -> None:
        """UserError for a calibration on the samples that it was fitted on, where it can only look good."""
        if self.split == "val" and self.calibrate:
            raise UserError(
                "the calibration was fitted on val, so it flatters answers to val",
                "evaluate.split",
                "Set evaluate.calibrate=false, or evaluate another split.",
                usage=True,
            )


class Compare(Plain):
    """Which methods are trained and set side by side. baseline: the preset that the method is tested against; null = all the
    others. learning_rates: those tried for each cell, the best on validation stays; none = the one of `finetune`. train:
    what training misses in place of missing.train, each written `complete`, `audio=0.7` or, for several at once,
    `audio=0.7,image=0.3`."""

    presets: Names = tuple(PRESETS)
    baseline: str | None = None
    seeds: Annotated[tuple[int, ...], Field(strict=False)] = (0, 1, 2)
    learning_rates: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False)] = ()
    train: Names = ("complete",)


class Missing(Plain):
    """What is taken away on purpose. train: {modality: the share of the training samples that lose it}; "audio|image": the
    share that loses one of the two, "audio+image": that loses both. val: the same of the validation samples, which choose
    the epoch and the calibration; null = as train, {} = nothing."""

    train: dict[str, Share] = {}
    val: dict[str, Share] | None = None


class Machine(Plain):
    """What depends on the machine and changes no result, so no stage's output depends on it.

    memory: GiB of decoded samples that a process may keep of each split; a larger one is decoded for each batch. workers:
    processes that decode, per training process; null = as it pays. checkpoint: seconds between two; keep: so many.
    deterministic: true = only kernels that repeat to the bit, warn = others too, with a warning, false = any; with the
    latter two, runs on the same machine may differ in rounding.
    """

    memory: Annotated[float, Field(ge=0)] = 4.0
    workers: Annotated[int, Field(ge=0)] | None = None
    checkpoint: Annotated[float, Field(ge=0)] = 60.0
    keep: Positive = 2
    deterministic: bool | Literal["warn"] = True


class Params(Plain):
    """The whole of params.yaml."""

    dataset: str
    modalities: Names
    seed: int = 0
    shards: str = "data/shards"  # a folder, or a URL such as s3://bucket/shards
    preprocess: Preprocess = Preprocess()
    encoders: dict[str, Encoder] = {}
    augment: dict[str, dict[str, Any]] = {}  # {modality: its own options}, checked by the modality
    missing: Missing = Missing()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()
    evaluate: Evaluate = Evaluate()
    compare: Compare = Compare()
    machine: Machine = Machine()
    place: Annotated[str, Field(pattern=r"^(compare/[^/]+/-?\d+)?$")] = (
        ""  # set by umemma compare, for one of its cells
    )

    @property
    def paths(self) -> Paths:
        return Paths(self.dataset, self.shards, self.place, self.finetune.preset)

    def encoder(self, modality: str) -> Encoder:
        return self.encoders.get(modality, Encoder())

    def check_modalities(self, known: Sequence[str]) -> None:
        """UserError unless every modality is one of the dataset's, named once, and has what it needs."""
        for where, names in (
            ("modalities", self.modalities),
            ("encoders", self.encoders),
            ("augment", self.augment),
            (
                "missing.train",
                [m for text in self.missing.train for one in parse_alternatives(text) for m in one],
            ),
            (
                "missing.val",
                [
                    m
                    for text in self.missing.val or {}
                    for one in parse_alternatives(text)
                    for m in one
                ],
            ),
            ("pretrain.modalities", self.pretrain.modalities),
            ("finetune.modalities", self.finetune.modalities),
        ):
            for name in names:
                if name not in known:
                    raise unknown_name("modality", name, known, where)
        if not self.modalities or len(set(self.modalities)) < len(self.modalities):
            raise UserError(
                f"{list(self.modalities)} has to name each modality once", "modalities", usage=True
            )

    # What each stage's output depends on. An output made with other settings than these is refused.

    def shard_settings(self) -> dict[str, Any]:
        return {
            "dataset": self.dataset,
            "preprocess": self.preprocess.model_dump(mode="json", exclude={"max_failures"}),
        }

    def unimodal_settings(self, modality: str, shards: str) -> dict[str, Any]:
        return {
            "kind": "unimodal",
            "dataset": self.dataset,
            "shards": shards,
            "modalities": [modality],
            "encoders": {modality: self.encoder(modality).model_dump(mode="json")},
            **self._shown([modality]),
            "seed": self.seed,
            "pretrain": self.pretrain.of(modality).model_dump(mode="json"),
        }

    def ensemble_settings(self, shards: str) -> dict[str, Any]:
        names = sorted(self.modalities)
        switches = self.finetune.switches()
        unimodal = {m: fingerprint(self.unimodal_settings(m, shards)) for m in names}
        return {
            "kind": "ensemble",
            "dataset": self.dataset,
            "shards": shards,
            "modalities": names,
            "encoders": {m: self.encoder(m).model_dump(mode="json") for m in names},
            **self._shown(names),
            "seed": self.seed,
            "finetune": self.finetune.model_dump(mode="json") | switches,
            "starts_from": unimodal
            if switches["init"] == "unimodal" or switches["balance"] == "umt"
            else {},
        }

    def _shown(self, names: Sequence[str]) -> dict[str, Any]:
        """What training and validation see of their samples."""
        val = self.missing.train if self.missing.val is None else self.missing.val
        missing = {"train": self._of(self.missing.train, names), "val": self._of(val, names)}
        return {
            "augment": {m: self.augment[m] for m in names if self.augment.get(m)},
            "missing": missing,
        }

    def _of(self, missing: dict[str, float], names: Sequence[str]) -> dict[str, float]:
        """What of it concerns these modalities."""
        taken = {text: {m for one in parse_alternatives(text) for m in one} for text in missing}
        return {
            text: ratio for text, ratio in missing.items() if ratio and taken[text] & set(names)
        }


class Paths:
    """Where a dataset's files live, relative to the project root, which is the current directory. In a `place` below
    models/ and results/ the ensemble has the name of its preset, as several share the uni-modal models there."""

    # The files in the folder of a trained model.
    WEIGHTS = "model.safetensors"
    ABOUT = "model.json"
    METRICS = "metrics.csv"

    def __init__(
        self, dataset: str, shards: str = "data/shards", place: str = "", preset: str = ""
    ) -> None:
        self.raw = Path("data/raw") / dataset
        self.shards = f"{shards.rstrip('/')}/{dataset}"
        self.models = Path("models") / dataset / place
        self.ensemble = self.models / (preset if place else "ensemble")
        self.results = Path("results") / dataset / place / (preset if place else "")
        self.runs = Path("runs") / dataset

    def pretrain(self, modality: str) -> Path:
        return self.models / "pretrain" / modality


def load_params(file: Path = Path("params.yaml"), sets: Sequence[str] = ()) -> Params:
    """Read and check a params file; `sets` are one-off changes written `a.b=value`, the value being YAML."""
    try:
        data = _yaml().load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            "no such file",
            str(file),
            "Run umemma in the project root, or name a file with --params.",
            usage=True,
        ) from None
    except (YAMLError, UnicodeDecodeError, IsADirectoryError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"not readable as YAML: {reason}", str(file), "Mend the file.", usage=True
        ) from None
    if not isinstance(data, dict):
        raise UserError(
            "no settings in it",
            str(file),
            "It has to be a mapping, as the project's params.yaml is.",
            usage=True,
        )
    return _with(data, sets, str(file))


def default_params(dataset: str, sets: Sequence[str] = ()) -> Params:
    """The default settings of a dataset, where no file is about it."""
    return _with({"dataset": dataset, "modalities": []}, sets, "settings")


def _with(data: dict[str, Any], sets: Sequence[str], where: str) -> Params:
    for entry in sets:
        path, equals, text = entry.partition("=")
        if not equals or not all(path.split(".")):
            raise UserError(
                f"cannot read {entry!r}",
                "--set",
                "Write it as --set section.key=value.",
                usage=True,
            )
        try:
            value = _yaml().load(text)
        except YAMLError:
            raise UserError(
                f"{text!r} is not a YAML value", f"--set {path}", "Quote it.", usage=True
            ) from None
        *parents, last = path.split(".")
        node = data
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise UserError(
                    f"{parent!r} holds a value, not a section", f"--set {path}", usage=True
                )
        node[last] = value
    return validate(Params, data, where if not sets else f"{where} with --set")


def _yaml() -> YAML:
    return YAML(typ="safe", pure=True)
