"""The search space of `umemma tune`: which settings are searched, and among which values.

A list of values is written as in params.yaml, a range as low..high, with `log` behind it where the
logarithm is drawn evenly: `finetune.batch_size=[16, 32]`, `finetune.learning_rate=1e-4..1e-2 log`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from umemma.config import CLASS_WEIGHTS, Params
from umemma.errors import UserError

OPTION = "--search"
# What a training depends on and the data does not.
SECTIONS = ("augment", "encoders", "finetune", "pretrain")
# They change what the validation score measures, so the scores of two values say nothing.
MEASURES = ("finetune.preset", "finetune.mma", "finetune.pattern_weights", "finetune.select")
RANGE = re.compile(r"(?P<low>\S+?)\s*\.\.\s*(?P<high>\S+?)(?P<log>\s+log)?")
DIGITS = 3  # of a number that is drawn, so that the best settings can be copied by hand


@dataclass(frozen=True)
class Choice:
    """One of several values, each as JSON text."""

    values: tuple[str, ...]

    def ends(self) -> list[Any]:
        """Return the values that have to be valid for all to be: all of them."""
        return [json.loads(text) for text in self.values]


@dataclass(frozen=True)
class Range:
    """A number in low..high; an integer if both are. log: its logarithm is drawn evenly."""

    low: float
    high: float
    log: bool = False

    @property
    def is_integer(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def ends(self) -> list[float]:
        """Return the values that have to be valid for all to be: both ends."""
        return [self.low, self.high]

    def round(self, value: float) -> float:
        """Return a drawn number with few digits, within the range."""
        if self.is_integer:
            return value
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)


Space = dict[str, Choice | Range]


def parse_space(texts: Sequence[str]) -> Space:
    """Return {setting: its values} of texts as in --search. UserError for one that can't be."""
    space: Space = {}
    for text in texts:
        key, equals, values = text.partition("=")
        key = key.strip()
        if not equals or not all(key.split(".")) or key in space:
            raise _refuse(text, "it has to name a setting once")
        space[key] = _parse_values(text, values.strip())
    return space


def _parse_values(text: str, values: str) -> Choice | Range:
    if values.startswith("["):
        try:
            listed = YAML(typ="safe", pure=True).load(values)
            choices = tuple(json.dumps(value, allow_nan=False) for value in listed)
        except (YAMLError, RecursionError, TypeError, ValueError):
            raise _refuse(text, "its list can't be read") from None
        if len(set(choices)) < max(len(choices), 2):
            raise _refuse(text, "a list has to have two values or more, each once")
        return Choice(choices)
    match = RANGE.fullmatch(values)
    if match is None:
        raise _refuse(text, "its values are neither a list nor a range")
    low, high = _parse_number(text, match["low"]), _parse_number(text, match["high"])
    if low >= high or (match["log"] and low <= 0):
        raise _refuse(text, "a range has to rise, and with log from above 0")
    return Range(low, high, bool(match["log"]))


def _parse_number(text: str, number: str) -> float:
    try:
        if re.fullmatch(r"-?\d{1,15}", number):
            return int(number)
        value = float(number)
    except ValueError:
        raise _refuse(text, f"{number!r} is no number") from None
    if not math.isfinite(value):
        raise _refuse(text, f"{number!r} is not finite")
    return value


def _refuse(text: str, reason: str) -> UserError:
    return UserError(
        f"cannot read {text!r}: {reason}",
        OPTION,
        "Write it as 'finetune.batch_size=[16, 32, 64]', 'finetune.epochs=5..20' or "
        "'finetune.learning_rate=1e-4..1e-2 log'.",
        usage=True,
    )


def check_space(space: Space, params: Params) -> None:
    """UserError for a setting that no trial may change."""
    measures = list(MEASURES)
    if params.finetune.select is None:  # it then follows from these
        measures += [f"finetune.{name}" for name in CLASS_WEIGHTS]
    for key in space:
        section, *rest = key.split(".")
        if section not in SECTIONS or not rest:
            raise UserError(
                f"{key} can't be searched",
                OPTION,
                f"A trial trains on the same samples: search settings in {', '.join(SECTIONS)}.",
                usage=True,
            )
        for measure in measures:
            if key == measure or key.startswith(f"{measure}."):
                raise UserError(
                    f"{key} changes what the validation score measures",
                    OPTION,
                    "Search each value by itself (--preset or --set), or set finetune.select.",
                    usage=True,
                )


def retarget(space: Space, params: Params) -> Space:
    """Return the space of a preset that may start from scratch: its rate and epochs are others.

    So one command line searches the same for every preset.
    """
    if params.finetune.switches().init != "scratch":
        return space
    names = {f"finetune.{name}": f"finetune.scratch.{name}" for name in ("learning_rate", "epochs")}
    return {names.get(key, key): values for key, values in space.items()}


def format_sets(settings: Mapping[str, Any]) -> list[str]:
    """Return settings as arguments of --set."""
    return [f"{key}={json.dumps(value)}" for key, value in settings.items()]
