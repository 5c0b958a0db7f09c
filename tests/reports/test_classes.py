"""What each class loses with a modality."""

from __future__ import annotations

import numpy as np
from toys import reports
from toys.predictions import logits

from umemma.evaluation.predictions import Predictions
from umemma.reports.classes import classes


def test_a_class_that_is_never_there_without_a_modality_has_not_lost_it():
    """No sample of the second class has an image: nothing is known of it with that alone."""
    complete = logits([0, 1, 1, 1])
    image = complete.copy()
    image[1:] = np.nan
    ensemble = {"audio+image": complete, "audio": logits([1, 1, 1, 1]), "image": image}
    keys = list("abcd")
    predictions = Predictions(
        keys,
        {"sample": keys},
        np.array([0, 1, 1, 1]),
        ensemble,
        {m: ensemble[m] for m in ("audio", "image")},
        ["toad", "frog"],
    )
    _, table = classes(reports.evaluate(predictions), predictions)
    losses = {row[0]: row[-1] for row in table.rows}
    assert losses == {"toad": "100.0", "frog": "0.0"}
