"""What absence did to an ensemble before it had a head per modality and encoders that see what is there only, and now.

    python benchmarks/absence.py biases       the untrained ensemble (UME) with one modality left, labels of unequal frequency
    python benchmarks/absence.py statistics   what absent samples do to a batch-norm encoder (timm:resnet18, random weights)
    python benchmarks/absence.py seconds      what an epoch costs its encoder with a share of the samples absent

"before" is the rule of version 0.5 and earlier, written out here: one bias, the mean of all uni-modal ones, whatever was
there; blank inputs in place of absent samples. On CPU, a minute or two each.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn

from umemma.evaluation.metrics import get, task
from umemma.missing import patterns
from umemma.models.late_fusion import LateFusion
from umemma.training import linear_probe
from umemma.types import Batch

SEEDS = 5
WIDTH, SAMPLES = 32, 4000
# Of the 23 genres of MM-IMDb the commonest has 54 % of the films, the rarest 1 %.
SHARES = np.geomspace(0.54, 0.01, 23)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("biases", "statistics", "seconds"))
    {"biases": biases, "statistics": batch_norm, "seconds": seconds}[parser.parse_args().what]()


# Biases. --------------------------------------------------------------------------------------------------------------


def biases() -> None:
    """Mean and standard deviation over data sets drawn with seeds 0 to 4, 2,000 test samples each."""
    for name, many, metric in (
        ("23 labels", True, "f1_samples"),
        ("23 classes, long tail", False, "f1_macro"),
    ):
        found: dict[tuple[str, str], list[float]] = {}
        for seed in range(SEEDS):
            for key, value in ensemble(seed, many, metric).items():
                found.setdefault(key, []).append(value)
        print(f"\n{name}, {metric}")
        for (left, rule), values in found.items():
            print(
                f"  {left:12} {rule:20} {statistics.mean(values):.3f} +- {statistics.stdev(values):.3f}"
            )


def ensemble(seed: int, many: bool, metric: str) -> dict[tuple[str, str], float]:
    """{(what is left, rule): score} of the average of two linear models; image's features say less than audio's."""
    chance = np.random.default_rng(seed)
    target = labels(chance, many)
    strengths = {"audio": 1.2, "image": 0.8}
    inputs = {m: features(chance, target, strength) for m, strength in strengths.items()}
    y, half = torch.from_numpy(target), SAMPLES // 2
    alone = {}
    for m, x in inputs.items():
        val = x[half:][: half // 4], y[half:][: half // 4]
        alone[m] = LateFusion({m: nn.Identity()}, {m: WIDTH}, {m: torch.zeros(WIDTH)}, 23)
        alone[m].heads[m].load_state_dict(
            linear_probe.fit((x[:half], y[:half]), val, 23).state_dict()
        )
    blanks = dict.fromkeys(inputs, torch.zeros(WIDTH))
    together = LateFusion(
        {m: nn.Identity() for m in inputs}, dict.fromkeys(inputs, WIDTH), blanks, 23
    )
    together.start_from(alone)
    test = {m: x[half:] for m, x in inputs.items()}
    scored = get(metric, task(target), 23)
    assert scored.stats
    assert scored.value
    found = {}
    for pattern in patterns(list(inputs)):
        present = torch.tensor([[m in pattern for m in sorted(inputs)]]).expand(half, -1)
        with torch.no_grad():
            now = together(Batch(test, present, y[half:]))
            heads = [alone[m].heads[m] for m in sorted(inputs)]
            bias = torch.stack([head.bias for head in heads]).mean(0)
            weighted = [test[m] @ alone[m].heads[m].weight.T for m in pattern]
            before = sum(weighted[1:], weighted[0]) / len(inputs) + bias
        for rule, logits in (("before", before), ("now", now)):
            sums = scored.stats(logits.numpy(), target[half:]).total(np.ones(half))
            found["+".join(pattern), rule] = float(scored.value(sums))
    return found


def labels(chance: np.random.Generator, many: bool) -> np.ndarray:
    if many:
        return (chance.random((SAMPLES, 23)) < SHARES).astype(np.float32)
    return chance.choice(23, SAMPLES, p=SHARES / SHARES.sum())


def features(chance: np.random.Generator, target: np.ndarray, strength: float) -> Tensor:
    """(N, WIDTH): the sum of a direction for each label, and noise."""
    directions = chance.standard_normal((23, WIDTH)) * strength
    signal = target @ directions if target.ndim == 2 else directions[target]
    return torch.from_numpy(signal + 2 * chance.standard_normal((len(target), WIDTH))).float()


# Batch norm. ----------------------------------------------------------------------------------------------------------


def resnet() -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=0, in_chans=3)


def pictures(count: int, seed: int) -> Tensor:
    """(count, 3, 32, 32) with the mean and deviation of a standardised picture; not as even as noise."""
    chance = torch.Generator().manual_seed(seed)
    small = torch.randn(count, 3, 8, 8, generator=chance)
    return nn.functional.interpolate(small, size=32, mode="bilinear") * 1.5


BLACK = -2.0  # (0 - mean) / std of the blank input


def batch_norm() -> None:
    """How far the features of 64 pictures move, in % of their norm, after 50 batches of 64 have passed in training mode of
    which a share was absent; against the same batches with all of it present."""
    seen = pictures(64, 1)

    def after(absent: float, blanks: bool) -> Tensor:
        encoder, chance = resnet().train(), np.random.default_rng(0)
        with torch.no_grad():
            for number in range(50):
                x, gone = pictures(64, 10 + number), torch.from_numpy(chance.random(64) < absent)
                encoder(
                    x.where(~gone[:, None, None, None], torch.tensor(BLACK)) if blanks else x[~gone]
                )
            return encoder.eval()(seen)

    whole = after(0.0, False)
    for absent in (0.1, 0.3, 0.5, 0.7):
        moved = [
            100 * float((after(absent, blanks) - whole).norm() / whole.norm())
            for blanks in (True, False)
        ]
        print(f"{absent:.0%} absent: before {moved[0]:5.1f} %, now {moved[1]:5.1f} %")


def seconds() -> None:
    """A training epoch of 1,024 pictures of 64 pixels through the encoder, forward and backward; the least of 3."""
    model = LateFusion(
        {"image": resnet()}, {"image": 512}, {"image": torch.zeros(3, 64, 64)}, 10
    ).train()
    x = nn.functional.interpolate(pictures(1024, 0), size=64)
    chance = np.random.default_rng(0)

    def epoch(absent: float) -> float:
        there, begun = torch.from_numpy(chance.random(1024) >= absent), time.perf_counter()
        for start in range(0, 1024, 64):
            part = slice(start, start + 64)
            model.encode_one("image", x[part], there[part]).square().mean().backward()
        return time.perf_counter() - begun

    epoch(0.0)
    taken = {absent: min(epoch(absent) for _ in range(3)) for absent in (0.0, 0.3, 0.7, 0.9)}
    for absent, time_taken in taken.items():
        print(
            f"{absent:.0%} absent: {time_taken:.2f} s, {time_taken / taken[0.0]:.2f} of the full epoch"
        )


if __name__ == "__main__":
    main()
