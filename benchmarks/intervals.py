"""Measure how often a 95 % interval contains the true accuracy, with images and voices crossed.

    python benchmarks/intervals.py                  # 2,000 data sets per line
    python benchmarks/intervals.py --times 300 --datasets 100

The pairs are laid out as in the test split of `digits`: 450 images of 10 digits, each with 3 of the
25 voices. An answer is right where a normal number of the pair, plus one of its image, plus one of
its voice, lies below a threshold, so the true accuracy is known (72 %). "families" has the 18
families of voices of that split, whose sizes are very unequal.

The rules are: percentile intervals that resample images only, voices only, or both at once by
product weights; the larger of the two single variances; and their sum less that of the pairs, which
is what `umemma.evaluation.bootstrap.Bootstrap` does. The last two are corrected for few groups.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

import numpy as np
from scipy.special import ndtri

from umemma.evaluation.bootstrap import Bootstrap, interval_95
from umemma.evaluation.metrics import Stats

IMAGES = 450
VOICES = 25
UTTERANCES = 3
ACCURACY = 0.72
FAMILIES = (5, 3, 2, *[1] * 15)  # voices of each
PER_LAYOUT = 25  # data sets that share a layout and its resamples, which saves time
EFFECTS = {  # of the image, of the voice
    "none": (0.0, 0.0),
    "image": (1.0, 0.0),
    "voice": (0.0, 0.7),
    "both": (1.0, 0.7),
    "both, alike": (2.0, 0.3),
    "voice, strong": (1.0, 1.5),
}
RULES = ("images", "voices", "product", "larger", "sum")

Interval = tuple[float, float]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--datasets", type=int, default=2000)
    parser.add_argument("--times", type=int, default=1000, help="resamples of an interval")
    arguments = parser.parse_args()
    print("| voices | effects | " + " | ".join(RULES) + " | mean width: sum |")
    print("|---|---|" + "--:|" * (len(RULES) + 1))
    for voices in ("25 voices", "18 families"):
        for name, effects in EFFECTS.items():
            coverage, width = measure_coverage(
                voices,
                effects,
                arguments.datasets,
                arguments.times,
            )
            cells = [f"{100 * coverage[rule]:.1f}" for rule in RULES]
            cells.append(f"{100 * width:.1f}")
            print(f"| {voices} | {name} | {' | '.join(cells)} |", flush=True)


def measure_coverage(
    voices: str,
    effects: tuple[float, float],
    datasets: int,
    times: int,
) -> tuple[dict[str, float], float]:
    """Return {rule: share of intervals that contain the truth}, and the mean width of the last."""
    random = np.random.default_rng(0)
    hits = dict.fromkeys(RULES, 0)
    width = 0.0
    layouts = datasets // PER_LAYOUT
    for seed in range(layouts):
        groups, right = draw_datasets(voices, effects, random)
        for intervals in list_intervals(groups, right, seed, times):
            for rule, (low, high) in intervals.items():
                hits[rule] += low <= ACCURACY <= high
            low, high = intervals["sum"]
            width += high - low
    count = layouts * PER_LAYOUT
    return {rule: hit / count for rule, hit in hits.items()}, width / count


def draw_datasets(
    voices: str,
    effects: tuple[float, float],
    random: np.random.Generator,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return {grouping: (N,) numbers} of a layout, and (N, PER_LAYOUT) which pairs are right."""
    image = np.repeat(np.arange(IMAGES), UTTERANCES)
    drawn_voices = []
    for _ in range(IMAGES):
        drawn_voices.append(random.choice(VOICES, UTTERANCES, replace=False))
    voice = np.concatenate(drawn_voices)
    if voices == "18 families":
        voice = np.repeat(np.arange(len(FAMILIES)), FAMILIES)[voice]
    image_effect, voice_effect = effects
    score = random.normal(size=(len(image), PER_LAYOUT))
    score += image_effect * random.normal(size=(IMAGES, PER_LAYOUT))[image]
    score += voice_effect * random.normal(size=(VOICES, PER_LAYOUT))[voice]
    deviation = np.sqrt(1 + image_effect**2 + voice_effect**2)
    right = score < ndtri(ACCURACY) * deviation
    return {"image": image, "voice": voice}, right.astype(np.float64)


def list_intervals(
    groups: Mapping[str, np.ndarray],
    right: np.ndarray,
    seed: int,
    times: int,
) -> Iterator[dict[str, Interval]]:
    """Yield {rule: interval} of the accuracy, for each data set."""
    names = {grouping: numbers.astype(str).tolist() for grouping, numbers in groups.items()}
    bootstrap = Bootstrap(names, seed, times)
    ones = np.ones(len(right))
    columns = np.column_stack([right, ones])
    width = columns.shape[1]
    sums = bootstrap.totals(Stats(np.arange(width), columns, width), ones)
    images, voices = bootstrap.clusterings[:2]
    image_weights = images.weights[:, images.member]
    voice_weights = voices.weights[:, voices.member]
    product = (image_weights * voice_weights) @ columns
    for number in range(right.shape[1]):
        draws = sums[..., number] / sums[..., -1]
        estimate = float(right[:, number].mean())
        larger = int(draws[:2].var(1).argmax())
        yield {
            "images": interval_95(draws[0]),
            "voices": interval_95(draws[1]),
            "product": interval_95(product[:, number] / product[:, -1]),
            "larger": stretch(interval_95(draws[larger]), estimate, bootstrap.stretches[larger]),
            "sum": bootstrap.bounds(draws, estimate),
        }


def stretch(interval: Interval, estimate: float, factor: float) -> Interval:
    """Return an interval that is wider by a factor on both sides of the estimate."""
    low, high = interval
    return estimate + factor * (low - estimate), estimate + factor * (high - estimate)


if __name__ == "__main__":
    main()
