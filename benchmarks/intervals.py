"""How often a 95 % interval of an accuracy holds the truth, where images and voices are crossed.

    python benchmarks/intervals.py                  # 2,000 data sets per line
    python benchmarks/intervals.py --times 300 --datasets 100

The pairs are laid out as in the test split of `digits`: 450 images of 10 digits, each with 3 of the 25 voices. An answer is
right where a normal number of the pair, plus one of its image, plus one of its voice, lies below a threshold, so the true
accuracy is known (72 %). "families" has the split's own 18 families of voices, whose sizes are very unequal. The rules
are: percentile intervals that resample images only, voices only, or both at once by product weights; the larger of the two
single variances; and their sum less that of the pairs, which is what `umemma.evaluation.bootstrap.Bootstrap` does. The last
two are corrected for few groups.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping

import numpy as np
from scipy.special import ndtri

from umemma.evaluation.bootstrap import Bootstrap, interval_95
from umemma.evaluation.metrics import Stats

IMAGES, VOICES, UTTERANCES, ACCURACY = 450, 25, 3, 0.72
FAMILIES = (5, 3, 2, *[1] * 15)  # voices of each
ALIKE = 25  # data sets that share a layout and its resamples, which costs less
EFFECTS = {
    "none": (0.0, 0.0),
    "image": (1.0, 0.0),
    "voice": (0.0, 0.7),
    "both": (1.0, 0.7),
    "both, alike": (2.0, 0.3),
    "voice, strong": (1.0, 1.5),
}
RULES = ("images", "voices", "product", "larger", "sum")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=int, default=2000)
    parser.add_argument("--times", type=int, default=1000, help="resamples of an interval")
    arguments = parser.parse_args()
    print("| voices | effects | " + " | ".join(RULES) + " | mean width: sum |")
    print("|---|---|" + "--:|" * (len(RULES) + 1))
    for voices in ("25 voices", "18 families"):
        for name, effects in EFFECTS.items():
            held, width = covered(voices, effects, arguments.datasets, arguments.times)
            cells = [f"{100 * held[rule]:.1f}" for rule in RULES]
            print(
                f"| {voices} | {name} | " + " | ".join(cells) + f" | {100 * width:.1f} |",
                flush=True,
            )


def covered(
    voices: str, effects: tuple[float, float], datasets: int, times: int
) -> tuple[dict[str, float], float]:
    """{rule: the share of data sets whose interval holds the true accuracy}, and the mean width of the last rule."""
    chance = np.random.default_rng(0)
    held = dict.fromkeys(RULES, 0)
    width = 0.0
    for number in range(datasets // ALIKE):
        groups, right = drawn(voices, effects, chance)
        for intervals in by_rule(groups, right, number, times):
            for rule, (low, high) in intervals.items():
                held[rule] += low <= ACCURACY <= high
            width += intervals["sum"][1] - intervals["sum"][0]
    done = datasets // ALIKE * ALIKE
    return {rule: count / done for rule, count in held.items()}, width / done


def drawn(
    voices: str, effects: tuple[float, float], chance: np.random.Generator
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """{grouping: (N,) numbers} of a new layout, and (N, ALIKE) whether a pair is answered rightly, in each data set."""
    image = np.repeat(np.arange(IMAGES), UTTERANCES)
    voice = np.concatenate(
        [chance.choice(VOICES, UTTERANCES, replace=False) for _ in range(IMAGES)]
    )
    if voices == "18 families":
        voice = np.repeat(np.arange(len(FAMILIES)), FAMILIES)[voice]
    of_image, of_voice = effects
    score = chance.normal(size=(len(image), ALIKE))
    score += of_image * chance.normal(size=(IMAGES, ALIKE))[image]
    score += of_voice * chance.normal(size=(VOICES, ALIKE))[voice]
    right = score < ndtri(ACCURACY) * np.sqrt(1 + of_image**2 + of_voice**2)
    return {"image": image, "voice": voice}, right.astype(np.float64)


def by_rule(
    groups: Mapping[str, np.ndarray], right: np.ndarray, seed: int, times: int
) -> Iterator[dict[str, tuple[float, float]]]:
    """For each data set {rule: interval} of the accuracy."""
    bootstrap = Bootstrap(
        {name: numbers.astype(str).tolist() for name, numbers in groups.items()}, seed, times
    )
    ones = np.ones(len(right))
    columns = np.column_stack([right, ones])
    sums = bootstrap.totals(Stats(np.arange(columns.shape[1]), columns, columns.shape[1]), ones)
    images, voices = bootstrap.clusterings[:2]
    product = (images.weights[:, images.member] * voices.weights[:, voices.member]) @ columns
    for number in range(right.shape[1]):
        draws = sums[..., number] / sums[..., -1]
        larger = int(draws[:2].var(1).argmax())
        estimate, stretch = float(right[:, number].mean()), bootstrap.stretches[larger]
        low, high = interval_95(draws[larger])
        yield {
            "images": interval_95(draws[0]),
            "voices": interval_95(draws[1]),
            "product": interval_95(product[:, number] / product[:, -1]),
            "larger": (
                estimate + stretch * (low - estimate),
                estimate + stretch * (high - estimate),
            ),
            "sum": bootstrap.bounds(draws, estimate),
        }


if __name__ == "__main__":
    main()
