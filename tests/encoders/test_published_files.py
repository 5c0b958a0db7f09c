"""Published weights from their real files, where this machine has them.

They are looked for in data/weights/ of the project and in the folder $UMEMMA_TEST_WEIGHTS, under
the names that docs/published-weights.md gives them.
"""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from toys.project import ROOT

from umemma import encoders, modalities
from umemma.encoders.weights import read_state
from umemma.types import InputSpec, Media, Packing

PLACES = (ROOT / "data" / "weights", Path(os.environ.get("UMEMMA_TEST_WEIGHTS", "data/weights")))
LITE0 = "timm/tf_efficientnet_lite0.pth"
MINILM = "minilm"
PRODUCTS = ROOT.parent / "shared" / "mirror" / "flipkart"
needs_products = pytest.mark.skipif(
    not PRODUCTS.is_dir(), reason=f"the product photos are not in {PRODUCTS}"
)
PALACE = 698  # of the classes of ImageNet
DAISY = 985
MUGS = {504, 968}  # coffee mug, cup
PARAPHRASES = [
    ("The cat sleeps on the sofa.", "A kitten is napping on the couch."),
    ("Shares fell sharply after the report.", "The stock market dropped on the news."),
    ("How do I reset my password?", "I forgot my login and want a new one."),
    ("She is cooking pasta for dinner.", "A woman prepares noodles in the evening."),
]


class Loaded(NamedTuple):
    """An encoder with published weights, in evaluation mode."""

    modality: str
    module: torch.nn.Module
    spec: InputSpec

    def compute_features(self, media: list[Media]) -> torch.Tensor:
        """(B, D) of photos, as arrays or files, or of texts."""
        modality = modalities.get_module(self.modality)
        packing = Packing()
        features = []
        for item in media:
            x = modality.finish(
                modality.decode(modality.pack(item, packing).data, self.spec)[None], self.spec
            )
            with torch.no_grad():
                features.append(self.module(x))
        return torch.cat(features)


def find_or_skip(name: str) -> Path:
    for place in PLACES:
        if (place / name).exists():
            return (place / name).absolute()
    pytest.skip(f"no {name} in {' or '.join(map(str, PLACES))} (docs/published-weights.md)")


def load(name: str, modality: str, path: Path) -> Loaded:
    spec = encoders.input_spec(name, modality)
    module, _ = encoders.build(name, modality, spec)
    encoders.load_weights(module, name, modality, spec, path)
    return Loaded(modality, module.eval(), spec)


@pytest.fixture(scope="module")
def lite0() -> Loaded:
    return load("timm:tf_efficientnet_lite0", "image", find_or_skip(LITE0))


@pytest.fixture(scope="module")
def minilm() -> Loaded:
    folder = find_or_skip(MINILM)
    return load(f"hf:{folder}", "text", folder / "model.safetensors")


def classify(encoder: Loaded, photos: list[Media]) -> torch.Tensor:
    """(B, 5) the likeliest classes, by the classifier that the file of the weights holds."""
    state = read_state(find_or_skip(LITE0))
    logits = encoder.compute_features(photos) @ state["_fc.weight"].T + state["_fc.bias"]
    return logits.topk(5).indices


def test_lite0_names_the_photos_of_scikit_learn(lite0):
    from sklearn.datasets import load_sample_image

    photos = [load_sample_image("china.jpg"), load_sample_image("flower.jpg")]
    palace, flower = classify(lite0, photos)
    assert PALACE in palace
    assert DAISY in flower  # it is a dahlia, which ImageNet lacks


def read_products() -> list[dict[str, str]]:
    with (PRODUCTS / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def count_mugs(encoder: Loaded, photos: list[Media]) -> int:
    return sum(bool(MUGS & set(top5)) for top5 in classify(encoder, photos).tolist())


@needs_products
def test_lite0_names_photos_of_mugs(lite0):
    """The padding and the normalisation, which no name tells, are those of the tf_ model."""
    photos = [PRODUCTS / row["image"] for row in read_products() if "Mug" in row["title"]][:40]
    plain = load("timm:efficientnet_lite0", "image", find_or_skip(LITE0))
    assert count_mugs(lite0, photos) == 40
    assert count_mugs(plain, photos) < 30


def test_minilm_puts_paraphrases_closest(minilm):
    left = minilm.compute_features([first for first, _ in PARAPHRASES])
    right = minilm.compute_features([second for _, second in PARAPHRASES])
    similarity = torch.nn.functional.cosine_similarity(left[:, None], right[None], dim=2)
    assert similarity.argmax(0).tolist() == list(range(len(PARAPHRASES)))
    assert similarity.argmax(1).tolist() == list(range(len(PARAPHRASES)))
    others = similarity[~torch.eye(len(PARAPHRASES), dtype=torch.bool)]
    assert similarity.diagonal().min() > others.max() + 0.1


def score_probe(features: torch.Tensor, rows: list[dict[str, str]]) -> float:
    """Return the accuracy in % on the test split of a logistic regression on frozen features."""
    from sklearn.linear_model import LogisticRegression

    labels = np.array([row["label"] for row in rows])
    splits = np.array([row["split"] for row in rows])
    is_train = splits == "train"
    is_test = splits == "test"
    probe = LogisticRegression(max_iter=2000).fit(features[is_train], labels[is_train])
    return 100 * float(probe.score(features[is_test], labels[is_test]))


@needs_products
@pytest.mark.slow
def test_frozen_features_of_product_photos_tell_their_classes(lite0):
    rows = read_products()
    features = lite0.compute_features([PRODUCTS / row["image"] for row in rows])
    assert score_probe(features, rows) >= 74


@needs_products
@pytest.mark.slow
def test_frozen_features_of_product_texts_tell_their_classes(minilm):
    rows = read_products()
    features = minilm.compute_features([row["text"] for row in rows])
    assert score_probe(features, rows) >= 94
