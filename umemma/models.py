"""Names -> models: the encoders and blank inputs of some modalities, put together as a LateFusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from umemma import encoders, modalities
from umemma.config import Encoder
from umemma.contracts import InputSpec
from umemma.fusion import LateFusion


def input_specs(chosen: Mapping[str, Encoder]) -> dict[str, InputSpec]:
    """What each modality's encoder wants to see. UserError for an unknown encoder or a change it doesn't know."""
    return {m: encoder.adapt(encoders.input_spec(encoder.name, m), m) for m, encoder in sorted(chosen.items())}


def build(
    chosen: Mapping[str, Encoder], specs: Mapping[str, InputSpec], classes: Sequence[str], absent: str = "zero"
) -> LateFusion:
    """A LateFusion with fresh weights over the modalities of `chosen`."""
    built = {m: encoders.build(encoder.name, m, specs[m]) for m, encoder in sorted(chosen.items())}
    blanks = {m: modalities.get(m).blank(specs[m]) for m in built}
    modules = {m: module for m, (module, _) in built.items()}
    dims = {m: dim for m, (_, dim) in built.items()}
    return LateFusion(modules, dims, blanks, len(classes), absent)
