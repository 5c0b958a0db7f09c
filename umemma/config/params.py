"""The whole of params.yaml, and the settings that each stage's output depends on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from umemma.config.paths import Paths
from umemma.config.sections import (
    Compare,
    Encoder,
    Evaluate,
    FoldNumber,
    Machine,
    MissingRatios,
    Modalities,
    Preprocess,
)
from umemma.config.training import Finetune, Pretrain
from umemma.errors import UserError, unknown_name
from umemma.types import MAX_MODALITIES, NO_KINDS, Plain, parse_alternatives
from umemma.validation import fingerprint

# {kind: the encoder where none is named}; any other kind has that of `Encoder`.
DEFAULT_ENCODERS = {
    "series": "series:cnn",
    "table": "mlp:small",
    "text": "text:cnn",
    "vector": "mlp:small",
}


class Params(Plain):
    """The whole of params.yaml.

    name: what the folders of the data, models and results are called; by default the dataset's
        name. Several tables of one's own have different names.
    modalities: {name: kind} of the modalities to use, some or all of those of the dataset. In a
        plain list each is named like its kind.
    shards: a folder, or a URL such as s3://bucket/shards.
    augment: {modality: its options}, which the modality validates.
    fold: the fold that is tested, where `preprocess.options.folds` makes some; "" for none. DVC
        puts it into paths, in which null would be a word.
    place: set by `umemma compare` and `umemma tune` for each of their runs, see `Paths`.
    """

    dataset: str
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")] = ""
    modalities: Modalities
    seed: int = 0
    fold: FoldNumber = ""
    shards: str = "data/shards"
    preprocess: Preprocess = Preprocess()
    encoders: dict[str, Encoder] = {}
    augment: dict[str, dict[str, Any]] = {}
    missing: MissingRatios = MissingRatios()
    pretrain: Pretrain = Pretrain()
    finetune: Finetune = Finetune()
    evaluate: Evaluate = Evaluate()
    compare: Compare = Compare()
    machine: Machine = Machine()
    place: Annotated[str, Field(pattern=r"^(compare/[^/]+/-?\d+|tune/\w+/\w+)?$")] = ""

    @model_validator(mode="before")
    @classmethod
    def _name_after_dataset(cls, value: Any) -> Any:
        if isinstance(value, dict) and "dataset" in value:
            return {"name": value["dataset"], **value}
        return value

    @model_validator(mode="after")
    def _check_encoders(self) -> Params:
        for name, encoder in self.encoders.items():
            if encoder.kind is not None:
                raise ValueError(
                    f"encoders.{name}.kind can't be set here; write modalities: "
                    f"{{{name}: {encoder.kind}}}"
                )
            if encoder.same_as is not None:
                self._check_shared(name, encoder, encoder.same_as)
        return self

    @model_validator(mode="after")
    def _name_encoders(self) -> Params:
        """Fill in the default names, so that settings that are written out mean the same."""
        for modality, encoder in self.encoders.items():
            kind = self.modalities.get(modality, modality)
            is_named = "name" in encoder.model_fields_set or encoder.same_as is not None
            if not is_named and kind in DEFAULT_ENCODERS:
                changes = {"name": DEFAULT_ENCODERS[kind]}
                self.encoders[modality] = encoder.model_copy(update=changes)
        return self

    def _check_shared(self, name: str, encoder: Encoder, owner: str) -> None:
        where = f"encoders.{name}.same_as: {owner}"
        if encoder.model_copy(update={"same_as": None}) != Encoder():  # defaults may be spelled out
            raise ValueError(f"{where} takes all from there, so no other key may stand beside it")
        if name not in self.modalities:
            return
        if owner == name or owner not in self.modalities:
            raise ValueError(f"{where} has to be another one of modalities")
        if self.encoders.get(owner, Encoder()).same_as is not None:
            raise ValueError(f"{where} is itself the same as another; name that one")
        if self.modalities[owner] != self.modalities[name]:
            raise ValueError(f"{where} is of another kind")

    @property
    def paths(self) -> Paths:
        """Where the files of the dataset are."""
        preset, split = self.finetune.preset, self.evaluate.split
        return Paths(self.name, self.shards, self.place, preset, self.fold, split)

    @property
    def fold_number(self) -> int | None:
        """The fold that is tested, None where there are no folds."""
        if self.fold == "":
            return None
        return self.fold

    @property
    def decoded_cache(self) -> Path | None:
        """The folder in which decoded samples are cached, None where they are not."""
        if self.machine.cache_decoded:
            return self.paths.runs / "decoded"
        return None

    def encoder(self, modality: str) -> Encoder:
        """Return the settings of a modality's encoder, those of another where they share one."""
        encoder = self.encoders.get(modality, Encoder())
        changes: dict[str, str] = {}
        if encoder.same_as is not None:
            changes["same_as"] = encoder.same_as
            encoder = self.encoders.get(encoder.same_as, Encoder())
        kind = self.modalities.get(modality, modality)
        if kind != modality:
            changes["kind"] = kind
        if "name" not in encoder.model_fields_set:
            changes["name"] = DEFAULT_ENCODERS.get(kind, encoder.name)
        return encoder.model_copy(update=changes)

    def sharing(self, modality: str) -> list[str]:
        """Return the modalities that have the encoder of this one, the owner of its settings first.

        One that shares with no other stands alone.
        """
        owner = self.encoders.get(modality, Encoder()).same_as or modality
        others = [m for m in self.modalities if self.encoders.get(m, Encoder()).same_as == owner]
        return [owner, *sorted(others)]

    def check_modalities(self, known: Sequence[str], kinds: Mapping[str, str] = NO_KINDS) -> None:
        """Raise UserError unless all modalities that the settings name are `known` and of the same
        kinds.

        kinds: {modality: its kind} of those that are not named like their kind.
        """
        for where, names in self._modalities_named():
            for name in names:
                if name not in known:
                    raise unknown_name("modality", name, known, where)
        if len(self.modalities) > MAX_MODALITIES:
            raise UserError(
                f"{len(self.modalities)} modalities, {MAX_MODALITIES} are possible: each subset of "
                "them is evaluated",
                "modalities",
                "Leave some out, or put vectors and tables together as columns of one.",
                usage=True,
            )
        if not self.modalities:
            raise UserError("has to name a modality", "modalities", usage=True)
        for name, kind in self.modalities.items():
            known_kind = kinds.get(name, name)
            if kind != known_kind:
                raise UserError(
                    f"{name} is of kind {known_kind!r} in the data, {kind!r} in the settings",
                    "modalities",
                    f"Write it as modalities: {{{name}: {known_kind}}}, or run: umemma preprocess",
                    usage=True,
                )

    def _modalities_named(self) -> Iterator[tuple[str, Iterable[str]]]:
        """Yield (setting, the modalities that it names)."""
        yield "modalities", self.modalities
        yield "encoders", self.encoders
        yield "augment", self.augment
        yield "missing.train", _removed_modalities(self.missing.train)
        yield "missing.val", _removed_modalities(self.missing.val or {})
        yield "pretrain.modalities", self.pretrain.modalities
        yield "finetune.modalities", self.finetune.modalities

    # The settings that each stage's output depends on. An output made with others is refused.

    def shard_settings(self) -> dict[str, Any]:
        """Return the settings that the shards depend on."""
        preprocess = self.preprocess.model_dump(mode="json", exclude={"max_failures"})
        return {"dataset": self.dataset, "preprocess": preprocess}

    def unimodal_settings(self, modality: str, shards: str) -> dict[str, Any]:
        """Return the settings that a uni-modal model depends on; `shards` is their fingerprint."""
        group = self.sharing(modality)
        settings = {
            "kind": "unimodal",
            "dataset": self.dataset,
            "shards": shards,
            "modalities": [modality],
            "encoders": {modality: self.encoder(modality).describe()},
            **self._sample_settings(group),
            "seed": self.seed,
            **self._fold_settings(),
            "pretrain": self.pretrain.of(group[0]).describe(),
        }
        if len(group) > 1:
            settings["trained_with"] = group
        return settings

    def ensemble_settings(self, shards: str) -> dict[str, Any]:
        """Return the settings that the ensemble depends on; `shards` is their fingerprint."""
        names = sorted(self.modalities)
        switches = self.finetune.switches()
        unimodal = {}
        if switches.init == "unimodal" or switches.balance == "umt":
            for m in names:
                unimodal[m] = fingerprint(self.unimodal_settings(m, shards))
        finetune = {
            **self.finetune.describe(),
            "preset": switches.preset,
            **switches._asdict(),
        }
        if switches.fusion == "mean":
            # Models from before there were other fusions stay valid.
            del finetune["fusion"], finetune["simmlm"]
        return {
            "kind": "ensemble",
            "dataset": self.dataset,
            "shards": shards,
            "modalities": names,
            "encoders": {m: self.encoder(m).describe() for m in names},
            **self._sample_settings(names),
            "seed": self.seed,
            **self._fold_settings(),
            "finetune": finetune,
            "starts_from": unimodal,
        }

    def _fold_settings(self) -> dict[str, Any]:
        """Return the fold, and nothing without one: models from before there were folds stay."""
        if self.fold == "":
            return {}
        return {"fold": self.fold}

    def _sample_settings(self, names: Sequence[str]) -> dict[str, Any]:
        """Return what changes the samples that training and validation see of these modalities."""
        train = self.missing.train
        val = self.missing.val
        if val is None:
            val = train
        return {
            "augment": {m: self.augment[m] for m in names if self.augment.get(m)},
            "missing": {
                "train": _select_ratios(train, names),
                "val": _select_ratios(val, names),
            },
        }


def _removed_modalities(ratios: Iterable[str]) -> list[str]:
    """Return the modalities that the keys of missing ratios name, such as "audio|image"."""
    modalities: list[str] = []
    for text in ratios:
        for removed in parse_alternatives(text):
            modalities.extend(removed)
    return modalities


def _select_ratios(ratios: Mapping[str, float], names: Sequence[str]) -> dict[str, float]:
    """Return the missing ratios above 0 that concern one of the modalities `names`."""
    selected = {}
    for text, ratio in ratios.items():
        if ratio and not set(names).isdisjoint(_removed_modalities([text])):
            selected[text] = ratio
    return selected
