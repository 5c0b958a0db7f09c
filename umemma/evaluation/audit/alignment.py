"""From the rows of a table of answers to Predictions, which the grid and the report read.

Each sample needs an answer under every subset of the modalities, and every row of a sample has to
say the same of it. R is the number of rows, N of samples, T of tables: the subsets, then the
uni-modal models where there are any. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
from scipy.special import logit

from umemma.errors import UserError, unknown_name
from umemma.evaluation.audit.answer_table import AnswerTable, number_targets
from umemma.evaluation.predictions import Predictions
from umemma.missing import list_patterns
from umemma.types import MAX_MODALITIES, MODALITY_NAME, format_pattern

UNIMODAL = "unimodal/"  # begins the subset of a uni-modal model's answers
SMALLEST = 1e-12  # probability; a smaller one counts as this much
SUM_TOLERANCE = 1e-3  # of probabilities that are rounded


def make_predictions(table: AnswerTable, modalities: Sequence[str] = ()) -> Predictions:
    """Return the predictions of a table. UserError for rows that are missing, twice there or wrong.

    modalities: their names; () = those of the subsets.
    """
    names = _find_modalities(table, modalities)
    subsets = [format_pattern(pattern) for pattern in list_patterns(names)]
    wanted = list(subsets)
    if any(text.startswith(UNIMODAL) for text in np.unique(table.subsets).tolist()):
        wanted += [f"{UNIMODAL}{name}" for name in names]
    keys, sample = _number(table.keys)
    rows = _place_rows(table, keys, sample, wanted)
    first = np.zeros(len(keys), np.int64)  # the first row of each sample
    first[sample[::-1]] = np.arange(len(sample))[::-1]
    target = number_targets(table)
    per_sample = {"target": target} | {f"group {name}": g for name, g in table.groups.items()}
    if table.present is not None:
        per_sample["present"] = table.present
    for name, values in per_sample.items():
        differs = (values != values[first[sample]]).reshape(len(values), -1).any(1)
        if differs.any():
            key = keys[sample[np.flatnonzero(differs)[0]]]
            raise UserError(f"the rows of {key!r} differ in their {name}", table.path)

    answered = _find_answered(table, names, wanted, first)
    _check_rows(table, keys, rows, answered, wanted)
    logits = _to_logits(table, rows[answered])
    tables = {}
    for number, name in enumerate(wanted):
        used = answered[:, number]
        tables[name] = np.full((len(keys), logits.shape[1]), np.nan, np.float32)
        tables[name][used] = logits[rows[used, number]]
    return Predictions(
        keys=keys,
        groups={name: g[first].tolist() for name, g in table.groups.items()} or {"sample": keys},
        target=target[first],
        ensemble={name: tables[name] for name in subsets},
        unimodal={name.removeprefix(UNIMODAL): tables[name] for name in wanted[len(subsets) :]},
        classes=table.classes,
    )


def align(other: Predictions, ours: Predictions, where: str) -> Predictions:
    """Return other predictions in the order of our samples. UserError where they are of others."""
    names = {
        "modalities": (other.modalities, ours.modalities),
        "classes": (other.classes, ours.classes),
        "task": ([other.task], [ours.task]),
    }
    for what, (theirs, own) in names.items():
        if theirs != own:
            problem = f"other {what}: {', '.join(theirs)}, not {', '.join(own)}"
            raise UserError(problem, where, "Both tables have to be of the same task.")
    strangers = sorted(set(other.keys) ^ set(ours.keys))
    if strangers:
        problem = f"other keys: {len(strangers)} are in one table only, such as {strangers[0]!r}"
        raise UserError(problem, where, "Both tables have to be of the same samples.")
    place = {key: number for number, key in enumerate(other.keys)}
    order = [place[key] for key in ours.keys]
    if not np.array_equal(other.target[order], ours.target):
        differs = (other.target[order] != ours.target).reshape(len(order), -1).any(1)
        key = ours.keys[int(np.flatnonzero(differs)[0])]
        raise UserError(f"another target of {key!r}", where, "Both tables need the same targets.")
    ensemble = {subset: logits[order] for subset, logits in other.ensemble.items()}
    for subset, logits in ensemble.items():
        if not np.array_equal(np.isnan(logits[:, 0]), np.isnan(ours.ensemble[subset][:, 0])):
            raise UserError("other modalities are present in the samples", where)
    unimodal = {m: logits[order] for m, logits in other.unimodal.items()}
    return replace(
        other,
        keys=ours.keys,
        groups=ours.groups,
        target=ours.target,
        ensemble=ensemble,
        unimodal=unimodal,
    )


def _find_modalities(table: AnswerTable, given: Sequence[str]) -> list[str]:
    found: set[str] = set()
    for text in np.unique(table.subsets).tolist():
        found.update(text.removeprefix(UNIMODAL).split("+"))
    for name in sorted(given or found):
        if not MODALITY_NAME.fullmatch(name) or name in ("any", "worst"):
            hint = 'Write subsets as "audio+image": names of letters, digits and _.'
            raise UserError(f"{name!r} can't be the name of a modality", table.path, hint)
    for name in sorted(found - {*given}):
        if given:
            raise unknown_name("modality", name, given, table.path)
    names = sorted({*(given or found)})
    if len(names) > MAX_MODALITIES:
        raise UserError(f"{len(names)} modalities, more than {MAX_MODALITIES}", table.path)
    return names


def _number(texts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the distinct texts in their order, and the (R,) number of each row's."""
    encoded = pa.array(texts).dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy()


def _place_rows(
    table: AnswerTable, keys: Sequence[str], sample: np.ndarray, wanted: Sequence[str]
) -> np.ndarray:
    """Return the (N, T) row of each answer, -1 where there is none. sample: (R,) numbers."""
    numbers = {name: number for number, name in enumerate(wanted)}
    texts, place = np.unique(table.subsets, return_inverse=True)
    column_of_text = []
    for text in texts.tolist():
        name = format_pattern(text.split("+"))  # in any order of modalities
        if name not in numbers:
            raise unknown_name("subset", text, wanted, table.path)
        column_of_text.append(numbers[name])
    column = np.array(column_of_text)[place]
    rows = np.full((len(keys), len(wanted)), -1)
    rows[sample, column] = np.arange(len(sample))
    twice = np.flatnonzero(rows[sample, column] != np.arange(len(sample)))
    if len(twice):
        key, name = keys[sample[twice[0]]], wanted[column[twice[0]]]
        raise UserError(f"{key!r} has two rows of {name}", table.path, "Keep one of them.")
    return rows


def _find_answered(
    table: AnswerTable, names: Sequence[str], wanted: Sequence[str], first: np.ndarray
) -> np.ndarray:
    """Return (N, T) whether a sample has anything of the subset. first: its first row."""
    if table.present is None:
        return np.ones((len(first), len(wanted)), bool)
    has = {name: np.zeros(len(first), bool) for name in names}
    for number, text in enumerate(table.present[first].tolist()):
        for name in text.split("+"):
            if name not in has:
                raise unknown_name("modality", name, names, f"{table.path}, column present")
            has[name][number] = True
    columns = []
    for name in wanted:
        parts = [has[m] for m in name.removeprefix(UNIMODAL).split("+")]
        columns.append(np.logical_or.reduce(parts))
    return np.stack(columns, 1)


def _check_rows(
    table: AnswerTable,
    keys: Sequence[str],
    rows: np.ndarray,
    answered: np.ndarray,
    wanted: Sequence[str],
) -> None:
    """Raise UserError for the first answer that is missing, and for numbers that are none."""
    missing = np.argwhere(answered & (rows < 0))
    if len(missing):
        sample, number = missing[0].tolist()
        more = ""
        if len(missing) > 1:
            more = f", nor are {len(missing) - 1} more rows there"
        hint = "Answer every sample under every subset; `present` says what a sample really lacks."
        raise UserError(f"{keys[sample]!r} has no row of {wanted[number]}{more}", table.path, hint)
    used = rows[answered]
    numbers = table.numbers[used]
    reason = "a number that is NaN, infinite or empty"
    wrong = ~np.isfinite(numbers).all(1)
    if not table.are_logits and not wrong.any():
        reason = "a probability outside 0..1"
        wrong = ((numbers < 0) | (numbers > 1 + SUM_TOLERANCE)).any(1)
    if not table.are_logits and table.targets.ndim == 1 and not wrong.any():
        reason = "probabilities that don't sum to 1"
        wrong = np.abs(numbers.sum(1) - 1) > SUM_TOLERANCE
    if wrong.any():
        row = int(used[wrong].min())
        key = str(table.keys[row])
        what = f"row {row + 1} ({key!r}, {table.subsets[row]}) has {reason}"
        raise UserError(what, table.path, "Correct the row, or the model that wrote it.")


def _to_logits(table: AnswerTable, used: np.ndarray) -> np.ndarray:
    """Return (R, C) logits, of the `used` rows; those of the others mean nothing."""
    if table.are_logits:
        return table.numbers.astype(np.float32)
    logits = np.full(table.numbers.shape, np.nan, np.float32)
    bounded = np.clip(table.numbers[used], SMALLEST, 1.0)
    if table.targets.ndim == 1:
        logits[used] = np.log(bounded)
    else:
        logits[used] = logit(np.minimum(bounded, 1 - SMALLEST))
    return logits
