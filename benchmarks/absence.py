"""Compare two rules of absence: of versions up to 0.5, and of today.

    python benchmarks/absence.py biases       the untrained ensemble (UME) with one modality left
    python benchmarks/absence.py statistics   what absent samples do to a batch-norm encoder
    python benchmarks/absence.py seconds      the time of an epoch by the share of absent samples

The rule of version 0.5 and earlier ("before") is written out here: the head has one bias, the mean
of all uni-modal ones, whatever is present, and absent samples enter the encoder as blank inputs.
Today each modality has a head of its own, and encoders see only what is present.

`biases` has labels of unequal frequency. `statistics` uses timm:resnet18 with random weights. Each
takes a minute or two on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from torch import Tensor, nn

from umemma.evaluation.metrics import get, task_of
from umemma.missing import list_patterns
from umemma.models.late_fusion import LateFusion
from umemma.training import linear_probe
from umemma.types import Batch

SEEDS = 5
DIM = 32
SAMPLES = 4000
CLASSES = 23
# Of the 23 genres of MM-IMDb the commonest has 54 % of the films, the rarest 1 %.
SHARES = np.geomspace(0.54, 0.01, CLASSES)
STRENGTHS = {"audio": 1.2, "image": 0.8}  # the features of image tell less about the label
TASKS = (
    ("23 labels", True, "f1_samples"),
    ("23 classes, long tail", False, "f1_macro"),
)
BLACK = -2.0  # (0 - mean) / std of the blank input


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=sorted(BENCHMARKS))
    arguments = parser.parse_args()
    BENCHMARKS[arguments.what]()


# Biases. ------------------------------------------------------------------------------------------


def compare_biases() -> None:
    """Print mean and standard deviation over data sets of seeds 0 to 4, with 2,000 test samples."""
    for title, multilabel, metric in TASKS:
        scores: dict[tuple[str, str], list[float]] = {}
        for seed in range(SEEDS):
            for key, score in score_ensemble(seed, multilabel, metric).items():
                scores.setdefault(key, []).append(score)
        print(f"\n{title}, {metric}")
        for (pattern, rule), values in scores.items():
            mean = statistics.mean(values)
            deviation = statistics.stdev(values)
            print(f"  {pattern:12} {rule:20} {mean:.3f} +- {deviation:.3f}")


def score_ensemble(seed: int, multilabel: bool, metric: str) -> dict[tuple[str, str], float]:
    """Return {(pattern, rule): score} of the average of two linear models."""
    random = np.random.default_rng(seed)
    labels = draw_labels(random, multilabel)
    inputs = {}
    for name, strength in STRENGTHS.items():
        inputs[name] = draw_features(random, labels, strength)
    target = torch.from_numpy(labels)
    half = SAMPLES // 2
    unimodal = {}
    for name, features in inputs.items():
        unimodal[name] = fit_unimodal(name, features, target)
    ensemble = make_fusion(sorted(inputs))
    ensemble.start_from(unimodal)

    test = {name: features[half:] for name, features in inputs.items()}
    metric_of_task = get(metric, task_of(labels), CLASSES)
    assert metric_of_task.stats
    assert metric_of_task.value
    scores = {}
    for pattern in list_patterns(list(inputs)):
        with torch.no_grad():
            logits_by_rule = {
                "before": predict_before(unimodal, test, pattern),
                "now": predict_now(ensemble, test, target[half:], pattern),
            }
        for rule, logits in logits_by_rule.items():
            stats = metric_of_task.stats(logits.numpy(), labels[half:])
            sums = stats.total(np.ones(half))
            scores["+".join(pattern), rule] = float(metric_of_task.value(sums))
    return scores


def make_fusion(names: list[str]) -> LateFusion:
    modules = {name: nn.Identity() for name in names}
    blanks = {name: torch.zeros(DIM) for name in names}
    return LateFusion(modules, dict.fromkeys(names, DIM), blanks, CLASSES)


def fit_unimodal(name: str, features: Tensor, target: Tensor) -> LateFusion:
    """Fit a linear model on the first half of the samples, its weight decay on an eighth."""
    half = SAMPLES // 2
    train = (features[:half], target[:half])
    val = (features[half:][: half // 4], target[half:][: half // 4])
    model = make_fusion([name])
    probe = linear_probe.fit(train, val, CLASSES)
    model.heads[name].load_state_dict(probe.state_dict())
    return model


def predict_now(
    ensemble: LateFusion,
    inputs: dict[str, Tensor],
    target: Tensor,
    pattern: tuple[str, ...],
) -> Tensor:
    row = [name in pattern for name in sorted(inputs)]
    present = torch.tensor([row]).expand(len(target), -1)
    return ensemble(Batch(inputs, present, target))


def predict_before(
    unimodal: dict[str, LateFusion],
    inputs: dict[str, Tensor],
    pattern: tuple[str, ...],
) -> Tensor:
    """Return the logits by the old rule: all biases are averaged, whatever is present."""
    biases = [unimodal[name].heads[name].bias for name in sorted(inputs)]
    logits = [inputs[name] @ unimodal[name].heads[name].weight.T for name in pattern]
    return sum(logits[1:], logits[0]) / len(inputs) + torch.stack(biases).mean(0)


def draw_labels(random: np.random.Generator, multilabel: bool) -> np.ndarray:
    if multilabel:
        return (random.random((SAMPLES, CLASSES)) < SHARES).astype(np.float32)
    return random.choice(CLASSES, SAMPLES, p=SHARES / SHARES.sum())


def draw_features(random: np.random.Generator, labels: np.ndarray, strength: float) -> Tensor:
    """Return (N, DIM) features: the sum of a direction for each label, and noise."""
    directions = random.standard_normal((CLASSES, DIM)) * strength
    if labels.ndim == 2:
        signal = labels @ directions
    else:
        signal = directions[labels]
    noise = random.standard_normal((len(labels), DIM))
    return torch.from_numpy(signal + 2 * noise).float()


# Batch norm. --------------------------------------------------------------------------------------


def build_resnet() -> nn.Module:
    import timm

    torch.manual_seed(0)
    return timm.create_model("resnet18", num_classes=0, in_chans=3)


def make_images(count: int, seed: int) -> Tensor:
    """Return (count, 3, 32, 32) standardised images, which are smoother than noise."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(count, 3, 8, 8, generator=generator)
    return nn.functional.interpolate(small, size=32, mode="bilinear") * 1.5


def compare_statistics() -> None:
    """Print how far the features of 64 images move, in % of their norm.

    The encoder has seen 50 batches of 64 in training mode, of which a share was absent. The
    distance is that to the same encoder after the same batches with nothing absent.
    """
    complete = features_after(0.0, False)
    for share in (0.1, 0.3, 0.5, 0.7):
        moved = []
        for blanks in (True, False):
            distance = (features_after(share, blanks) - complete).norm() / complete.norm()
            moved.append(100 * float(distance))
        before, now = moved
        print(f"{share:.0%} absent: before {before:5.1f} %, now {now:5.1f} %")


def features_after(share: float, blanks: bool) -> Tensor:
    """Return the features of 64 images after 50 batches; blanks: absent samples enter as black."""
    encoder = build_resnet().train()
    random = np.random.default_rng(0)
    with torch.no_grad():
        for number in range(50):
            images = make_images(64, 10 + number)
            absent = torch.from_numpy(random.random(64) < share)
            if blanks:
                images = images.where(~absent[:, None, None, None], torch.tensor(BLACK))
            else:
                images = images[~absent]
            encoder(images)
        return encoder.eval()(make_images(64, 1))


# Time. --------------------------------------------------------------------------------------------


def compare_seconds() -> None:
    """Print the time of an epoch of 1,024 images of 64 pixels: forward and backward, least of 3."""
    modules = {"image": build_resnet()}
    blanks = {"image": torch.zeros(3, 64, 64)}
    model = LateFusion(modules, {"image": 512}, blanks, 10).train()
    images = nn.functional.interpolate(make_images(1024, 0), size=64)
    random = np.random.default_rng(0)
    time_epoch(model, images, random, 0.0)  # warm up
    times = {}
    for share in (0.0, 0.3, 0.7, 0.9):
        times[share] = min(time_epoch(model, images, random, share) for _ in range(3))
    for share, seconds in times.items():
        ratio = seconds / times[0.0]
        print(f"{share:.0%} absent: {seconds:.2f} s, {ratio:.2f} of the full epoch")


def time_epoch(
    model: LateFusion,
    images: Tensor,
    random: np.random.Generator,
    share: float,
) -> float:
    """Return the seconds of an epoch of which a share of the samples is absent."""
    present = torch.from_numpy(random.random(len(images)) >= share)
    start = time.perf_counter()
    for first in range(0, len(images), 64):
        rows = slice(first, first + 64)
        features = model.encode_one("image", images[rows], present[rows])
        features.square().mean().backward()
    return time.perf_counter() - start


BENCHMARKS = {
    "biases": compare_biases,
    "statistics": compare_statistics,
    "seconds": compare_seconds,
}


if __name__ == "__main__":
    main()
