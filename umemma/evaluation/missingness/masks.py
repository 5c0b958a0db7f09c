"""Tables of masks, with which a test can be repeated: the modalities that each sample keeps.

A row has the key of a sample and `present`, the modalities that are left, such as "audio+image".
The same table takes the same modalities away whatever the model, so that two can be compared, and a
peer's masks be run. No torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from umemma.errors import UserError, unknown_name
from umemma.evaluation.audit.answer_table import KEY, PRESENT, read_table
from umemma.evaluation.missingness.protocol import SubsetWeights, normalize, place_keys
from umemma.evaluation.predictions import Predictions
from umemma.system.files import write_csv
from umemma.system.seeds import hash_keys, mix, to_unit
from umemma.types import format_pattern

HINT = "docs/evaluation.md#masks says which columns a table of masks has."


def read_masks(path: Path, predictions: Predictions) -> SubsetWeights:
    """Return what a table of masks leaves of each sample, with a weight of 1.

    A sample that really lacks all that the table leaves is refused. UserError for a column or a key
    that is missing, a key that is there twice, and an unknown modality.
    """
    table = read_table(path, HINT)
    for name in (KEY, PRESENT):
        if name not in table.column_names:
            raise UserError(f"there is no column {name!r}", str(path), HINT, usage=True)
    keys = [str(key) for key in table[KEY].to_pylist()]
    rows = place_keys(keys, predictions.keys, str(path))
    try:
        texts = table[PRESENT].cast(pa.string()).to_pylist()
    except pa.ArrowException:
        raise UserError(f"the column {PRESENT!r} is no text", str(path), HINT) from None
    left = []
    for text in texts:
        names = [name for name in (text or "").split("+") if name]
        for name in names:
            if name not in predictions.modalities:
                raise unknown_name("modality", name, predictions.modalities, str(path))
        left.append(format_pattern(names))
    of_samples = np.array(left)[rows]
    weights = {}
    for subset in predictions.ensemble:
        weights[subset] = (of_samples == subset).astype(np.float64)
    return normalize(weights, predictions)


def write_masks(
    path: Path, weights: SubsetWeights, predictions: Predictions, seed: int, draw: int
) -> None:
    """Write the masks of a seeded draw. A hash of its key decides what a sample keeps.

    So the draw of a sample does not depend on the others. Refused samples keep everything.
    """
    subsets = [*weights.weights]
    chances = np.stack([weights.weights[subset] for subset in subsets], 1)
    unit = to_unit(mix(hash_keys(predictions.keys), seed, "mask", draw))
    chosen = (unit[:, None] >= chances.cumsum(1)).sum(1).clip(max=len(subsets) - 1)
    everything = format_pattern(predictions.modalities)
    present = []
    for number, is_scored in zip(chosen.tolist(), weights.scored.tolist(), strict=True):
        present.append(subsets[number] if is_scored else everything)
    write_csv(path, (KEY, PRESENT), zip(predictions.keys, present, strict=True))
