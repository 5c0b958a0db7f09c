"""The advice of the information report, line by line."""

from __future__ import annotations

from toys.predictions import channels

from umemma.evaluation.bootstrap import Bootstrap
from umemma.evaluation.information import estimate_information
from umemma.evaluation.information_report import Information, ModelDifference, advise
from umemma.evaluation.metrics import get
from umemma.evaluation.predictions import Predictions

CLEAR, CLOSE, SMALL = (
    (0.3, 0.2, 0.4, 1.0, 0.9, 1.1),
    (0.2, 0.15, 0.25, 0.5, 0.4, 0.6),
    (0.05, 0.01, 0.1, 0.1, 0.05, 0.2),
)


NOTHING, HARM = (0.0, -0.01, 0.01, 0.0, -0.1, 0.1), (-0.1, -0.2, -0.05, 0.0, -0.1, 0.1)


def estimate(predictions: Predictions) -> Information:
    return estimate_information(predictions, Bootstrap(predictions.groups, 0, 200))


def advice_on(
    groups: int = 100,
    smallest: float = 0.01,
    **rows: list[tuple],
) -> list[str]:
    """Advice. Each row as (modality, score, score_low, score_high, bits, bits_low, bits_high)."""
    differences = {
        name: [ModelDifference(m, 100, *numbers) for m, *numbers in each]
        for name, each in rows.items()
    }
    metric = get("accuracy", "multiclass", 2)
    return list(
        advise(
            Information(
                "multiclass",
                metric,
                smallest,
                1.0,
                [],
                **differences,
            ),
            groups,
        )
    )


def test_advice_says_what_to_protect():
    assert advice_on(complementary=[("audio", *SMALL), ("image", *CLEAR)]) == [
        "Protect image most: accuracy falls by 30.0 points (20.0 to 40.0) without image. A second "
        "sensor or another fallback pays off there first. Estimated in bits, this much is told by "
        "nothing else: image 1.00 bits (0.90 to 1.10)."
    ]
    assert advice_on(complementary=[("audio", *CLEAR), ("image", *CLOSE), ("text", *SMALL)]) == [
        "Protect audio and image alike, each by a second sensor or another fallback: accuracy "
        "falls by 30.0 points (20.0 to "
        "40.0) without audio and by 20.0 points (15.0 to 25.0) without image, and these intervals "
        "overlap. Estimated in "
        "bits, this much is told by nothing else: audio 1.00 bits (0.90 to 1.10), image 0.50 bits "
        "(0.40 to 0.60)."
    ]
    (points_only,) = advice_on(complementary=[("audio", 0.3, 0.2, 0.4, -0.5, -0.6, -0.4)])
    assert "Protect audio" in points_only
    assert "bits" not in points_only  # which say otherwise


def test_harm_is_of_the_score():
    (line,) = advice_on(complementary=[("audio", *NOTHING), ("image", *HARM)])
    assert line == (
        "The modality image does harm: with it accuracy is 10.0 points (5.0 to 20.0) lower than "
        "without it. Use it only "
        "where the others are missing, or leave it out of `modalities`."
    )
    assert (
        advice_on(complementary=[("image", 0.018, -0.012, 0.05, -0.98, -1.33, -0.65)]) == []
    )  # bits alone are no harm
    assert advice_on(complementary=[("image", -0.018, -0.05, 0.012, 0.98, 0.65, 1.33)]) == []


def test_nothing_is_said_of_what_does_not_matter():
    tiny = (-0.004, -0.006, -0.002, -0.04, -0.05, -0.03)  # surely below 0, but by less than a point
    assert (
        advice_on(
            complementary=[("image", *tiny)], gaps=[("image", *tiny)], shortfalls=[("image", *tiny)]
        )
        == []
    )
    assert advice_on(complementary=[("image", 0.009, 0.002, 0.012, 0, 0, 0)]) == []
    assert len(advice_on(smallest=0.003, complementary=[("image", *tiny)])) == 1
    assert advice_on(gaps=[("spectrogram", 0.001, -0.002, 0.005, -0.04, -0.05, -0.03)]) == []


def test_what_is_most_urgent_comes_first():
    """Everything together is worse than one part: its own model, or the ensemble with nothing
    else.
    """
    lines = advice_on(
        complementary=[("image", *HARM), ("text", *CLEAR)],
        singles=[("image", *CLEAR), ("text", *HARM)],
        shortfalls=[("image", *CLEAR), ("text", -0.061, -0.09, -0.03, 0, 0, 0)],
    )
    assert lines[0].startswith(
        "All modalities together do worse than the same ensemble given only text: accuracy is "
        "10.0 points (5.0 to 20.0) lower. "
        "Until that is fixed, use text alone wherever it is there."
    )
    assert lines[1].startswith("Protect text most")
    assert not any("does harm" in line for line in lines)  # of two it is the same once more
    (own,) = advice_on(
        singles=[("text", *NOTHING)], shortfalls=[("text", -0.061, -0.09, -0.03, 0, 0, 0)]
    )
    assert own.startswith(
        "All modalities together do worse than the model trained on text alone: accuracy is 6.1 "
        "points (3.0 to 9.0) lower."
    )
    of_three = [("audio", *NOTHING), ("image", *HARM), ("text", *CLEAR)]
    assert any(
        "image does harm" in line
        for line in advice_on(complementary=of_three, singles=[("text", *HARM)])
    )


def test_advice_tells_the_fusion_from_the_encoder():
    whole = {"gaps": [("audio", *HARM)], "shortfalls": [("audio", *CLEAR)]}
    (fusion,) = advice_on(
        **whole, fusion_gaps=[("audio", *HARM)], encoder_gaps=[("audio", *NOTHING)]
    )
    assert fusion == (
        "The fusion loses part of audio: given only audio, the ensemble's accuracy is 10.0 points "
        "(5.0 to 20.0) below that of "
        "a linear probe on its own audio features. Give audio more weight in "
        "finetune.pattern_weights, with "
        "finetune.mma: all or drop, and keep evaluate.calibrate on."
    )
    (encoder,) = advice_on(
        **whole, fusion_gaps=[("audio", *NOTHING)], encoder_gaps=[("audio", *HARM)]
    )
    assert encoder.startswith(
        "The ensemble's audio encoder learnt less than it could: with a linear probe on its "
        "features accuracy is 10.0 points "
        "(5.0 to 20.0) below that of the model trained on audio alone. Start from the uni-modal "
        "models"
    )
    assert (
        len(
            advice_on(
                **whole,
                fusion_gaps=[("audio", *HARM)],
                encoder_gaps=[("audio", *HARM)],
            )
        )
        == 2
    )
    (unclear,) = advice_on(**whole)
    assert unclear.startswith(
        "Given only audio, the ensemble's accuracy is 10.0 points (5.0 to 20.0) below"
    )
    assert "not clear" in unclear
    (weak,) = advice_on(
        gaps=[("audio", *NOTHING), ("image", *NOTHING)],
        shortfalls=[("audio", *CLEAR), ("image", *CLOSE)],
    )
    assert weak.startswith(
        "The model trained on audio alone is 30.0 points (20.0 to 40.0) of accuracy below all"
    )
    assert advice_on(gaps=[("audio", *NOTHING)], shortfalls=[("audio", *NOTHING)]) == []
    assert advice_on(gaps=[("audio", *NOTHING)]) == []  # a single modality


def test_few_groups_give_no_advice():
    (line,) = advice_on(groups=9, complementary=[("image", *CLEAR)])
    assert (
        line
        == "There are only 9 independent groups of samples: too few for intervals, so no advice is "
        "given."
    )
    assert advice_on(groups=10, complementary=[("image", *CLEAR)])[0].startswith("Protect image")
    one = channels(n=400)
    crossed = {
        "image": [f"i{i // 2}" for i in range(400)],
        "voice": [f"v{i % 9}" for i in range(400)],
    }
    both = Predictions(
        one.keys,
        crossed,
        one.target,
        one.ensemble,
        one.unimodal,
    )
    assert "only 9 independent groups" in estimate(both).advice[0]


def test_advice_on_a_known_source():
    lines = estimate(
        channels(errors={"audio": 0.1, "image": 0.3, "text": 0.75})
    ).advice  # 0.75 of 4: text is noise
    assert lines[0].startswith("Protect audio most")
    assert not any(
        "Given only" in line or "The fusion" in line or "does harm" in line for line in lines
    )
