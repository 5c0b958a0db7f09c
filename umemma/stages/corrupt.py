"""evaluate-corrupted: a metric by the severity of a corruption -> results/<dataset>/corruption/.

The intact split is encoded once, modality by modality. A corruption changes one modality, so that
each severity of it costs a pass of this modality's encoder, and the features of the others are
those of the intact split. Nothing comes from a cache of decoded samples or of features, and none is
written, so that no result of an evaluation changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from loguru import logger

from umemma.config import Params
from umemma.errors import UserError
from umemma.evaluation.metrics import Metric, select_metrics
from umemma.evaluation.missingness.severity import SeverityScore, score_severities
from umemma.evaluation.predictions import Predictions
from umemma.evaluation.results import EvaluationSettings
from umemma.modalities.corruption import SEVERITIES, Corruption, select_corruptions
from umemma.models.evaluated.inputs import EvaluationInputs, check_inputs, load_models
from umemma.reports.missingness import corruption as report
from umemma.system import distributed
from umemma.system.files import new_files
from umemma.system.storage import Store
from umemma.types import format_pattern

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from umemma.data.loader import LoadedSplit
    from umemma.models.late_fusion import LateFusion

    Features = dict[str, list[Tensor]]  # {modality: of the ensemble, of the uni-modal model}


class CorruptionOutcome(NamedTuple):
    """The scores of each modality, corruption and severity; what they belong to.

    kinds: {modality: its kind}.
    """

    scores: list[SeverityScore]
    metric: Metric
    settings: EvaluationSettings
    kinds: dict[str, str]


def run(
    params: Params,
    names: Sequence[str] = (),
    corruptions: Sequence[str] = (),
    severities: Sequence[int] = (),
) -> CorruptionOutcome | None:
    """Evaluate corrupted modalities, and write results/<dataset>/corruption/.

    names: of modalities, corruptions: such as "noise", severities: 1 to 5; all where empty. Of
    several processes, the main one writes and has the outcome, and the others None.
    """
    for severity in severities:
        if severity not in SEVERITIES:
            hint = "It is 1, 2, 3, 4 or 5."
            raise UserError(f"{severity} is no severity", "--severity", hint, usage=True)
    kinds = dict(sorted(params.modalities.items()))
    pairs = select_corruptions(kinds, names, corruptions)
    plan = []
    for modality, kind in pairs:
        for severity in sorted(set(severities or SEVERITIES)):
            plan.append(Corruption(modality, kind, severity, params.seed))
    inputs = check_inputs(params)
    predictions = _predict(params, inputs, plan)
    if predictions is None:
        return None
    intact, corrupted = predictions
    section = params.evaluate
    width = next(iter(intact.ensemble.values())).shape[1]
    metric = select_metrics(section.metrics, intact.task, width, intact.unit)[0]
    scores = list(score_severities(intact, corrupted, metric, params.seed, section.bootstrap))
    outcome = CorruptionOutcome(scores, metric, inputs.settings, kinds)
    with new_files(params.paths.results / report.FOLDER) as folder:
        report.write_files(folder, scores, metric, inputs.settings, kinds)
    return outcome


def _predict(
    params: Params, inputs: EvaluationInputs, plan: Sequence[Corruption]
) -> tuple[Predictions, dict[tuple[str, str, int], Predictions]] | None:
    """Return the predictions of the intact split and of each corruption; None on other ranks."""
    from umemma.data.decoding import watch_workers
    from umemma.models import factory
    from umemma.training.reproducibility import explain_nondeterminism, prepare
    from umemma.training.train import DataSource

    names = sorted(params.modalities)
    device = prepare(params.seed, "corrupt", machine=params.machine)
    ensemble, unimodal = load_models(params, inputs.index, device)
    specs = factory.input_specs({m: params.encoder(m) for m in names}, inputs.index.inputs)
    store = Store(params.paths.shards)
    data = DataSource(store, inputs.index, specs, params.machine, params.seed)
    corrupted: dict[tuple[str, str, int], Predictions | None] = {}
    with contextlib.ExitStack() as stay, watch_workers(), explain_nondeterminism():
        split = data.load(params.evaluate.split, stay, "corrupt", once=names)
        answering = _Answering(params, inputs, ensemble, unimodal, device)
        features: Features = {}
        for m in names:
            features[m] = answering.encode(m, split.select_modalities([m]))
        intact = answering.predict(split, features, [*_list_shown_subsets(names)])
        for number, corruption in enumerate(plan, start=1):
            modality, kind, severity, _ = corruption
            logger.info(f"{modality}, {kind} {severity} ({number} of {len(plan)})")
            encoded = answering.encode(
                modality, split.select_modalities([modality]).corrupt(corruption)
            )
            changed = {**features, modality: encoded}
            corrupted[modality, kind, severity] = answering.predict(split, changed, [names])
    if intact is None:
        return None
    return intact, {name: found for name, found in corrupted.items() if found is not None}


def _list_shown_subsets(names: Sequence[str]) -> Iterator[list[str]]:
    """Yield all modalities, then each set that lacks one."""
    yield [*names]
    if len(names) > 1:
        for absent in names:
            yield [m for m in names if m != absent]


class _Answering:
    """The ensemble and the uni-modal models, which answer from features."""

    def __init__(
        self,
        params: Params,
        inputs: EvaluationInputs,
        ensemble: LateFusion,
        unimodal: Mapping[str, LateFusion],
        device: torch.device,
    ) -> None:
        from umemma.training.feature_cache import encode_blanks, hash_weights

        self.inputs = inputs
        self.ensemble = ensemble
        self.unimodal = unimodal
        self.batch_size = params.evaluate.batch_size
        self.device = device
        self.blanks = encode_blanks(ensemble, ensemble.modalities)
        self.unimodal_blanks = {m: encode_blanks(model, [m]) for m, model in unimodal.items()}
        self.shared = []  # where both models have the same encoder, which then runs once
        for m, model in unimodal.items():
            same_weights = hash_weights(model.encoders[m]) == hash_weights(ensemble.encoders[m])
            if same_weights and model.precision == ensemble.precision:
                self.shared.append(m)

    def encode(self, modality: str, split: LoadedSplit) -> list[Tensor]:
        """Return (N, D_m) features of the ensemble and of the uni-modal model, from one pass.

        split: the samples with this modality alone.
        """
        import torch

        from umemma.data.loader import cut_batches

        models = [self.ensemble, self.unimodal[modality]]
        if modality in self.shared:
            models = [self.ensemble]
        chunks: list[list[Tensor]] = [[torch.empty(0, m.dims[modality])] for m in models]
        rows = distributed.rank_indices(len(split))
        with torch.no_grad():
            for batch in split.batches(cut_batches(rows, self.batch_size), self.device):
                x = batch.inputs[modality]
                for model, parts in zip(models, chunks, strict=True):
                    model.eval()
                    parts.append(model.encode_one(modality, x, batch.present[:, 0]).cpu())
        if split.stream:  # its workers have nothing left to decode
            split.stream.close()
        features = [distributed.gather_rows(torch.cat(parts), len(split)) for parts in chunks]
        return [features[0], features[-1]]

    def predict(
        self, split: LoadedSplit, features: Features, subsets: Sequence[Sequence[str]]
    ) -> Predictions | None:
        """Return the predictions of these subsets, calibrated as an evaluation's."""
        import torch

        names = self.ensemble.modalities
        table = torch.tensor([[m in subset for m in names] for subset in subsets])
        of_ensemble = {m: both[0] for m, both in features.items()}
        logits = self._predict_one(self.ensemble, self.blanks, split, of_ensemble, table)
        alone = torch.ones(1, 1, dtype=torch.bool)
        of_unimodal = {}
        for m, model in self.unimodal.items():
            selected = split.select_modalities([m])
            own = {m: features[m][1]}
            blanks = self.unimodal_blanks[m]
            of_unimodal[m] = self._predict_one(model, blanks, selected, own, alone)[:, 0].numpy()
        if not distributed.is_main():
            return None
        of_subsets = {}
        for number, subset in enumerate(subsets):
            of_subsets[format_pattern(subset)] = logits[:, number].numpy()
        return Predictions.calibrated(
            split.keys,
            split.groups,
            split.target.numpy(),
            (of_subsets, of_unimodal),
            self.inputs.index.classes,
            self.inputs.calibration,
            self.inputs.prior,
            self.inputs.thresholds,
            self.inputs.scales,
        )

    def _predict_one(
        self,
        model: LateFusion,
        blanks: Mapping[str, Tensor],
        split: LoadedSplit,
        features: Mapping[str, Tensor],
        table: Tensor,
    ) -> Tensor:
        """Return (N, S, C): the logits under the patterns of `table` (S, M)."""
        from umemma.training.step import predict_logits

        with model.on_features(blanks):
            on_features = split.with_features(features)
            (logits,) = predict_logits(
                [(model, table)], on_features, self.batch_size, self.device, to_all=False
            )
        return logits
