"""The settings of learning rates and weight decay reach the parts of a model."""

from __future__ import annotations

from toys.project import quick

from umemma.models import factory

VIT = "encoders.image={name: timm:vit_tiny_patch16_224, weights: none, input: {size: 224}}"


def assign_rates(
    *sets: str, names: tuple[str, ...] = ("audio", "image")
) -> dict[str, tuple[float, float]]:
    params = quick("finetune.learning_rate=1e-3", "finetune.weight_decay=0.1", *sets)
    encoders = {m: params.encoder(m) for m in names}
    specs = factory.input_specs(encoders)
    fusion = params.finetune.switches().fusion
    model = factory.build(encoders, specs, ["a", "b"], "learned", fusion=fusion)
    return factory.assign_learning_rates(model, params.finetune)


def test_every_part_of_a_model_has_the_rates_of_the_nearest_setting():
    rates = assign_rates(
        "finetune.encoder={learning_rate: 1e-5}",
        "finetune.head={weight_decay: 0.3}",
        "finetune.absence={learning_rate: 2e-2}",
        "finetune.modalities.image={learning_rate: 5e-4, weight_decay: 0.0}",
        "finetune.modalities.image.encoder={learning_rate: 2e-5}",
    )
    rates_of_parts = {}
    for name, rate in rates.items():
        kind, modality = name.split(".")[:2]
        rates_of_parts[kind, modality] = rate
    assert rates_of_parts == {
        ("encoders", "audio"): (1e-5, 0.1),
        ("heads", "audio"): (1e-3, 0.3),
        ("vectors", "audio"): (2e-2, 0.0),
        ("encoders", "image"): (2e-5, 0.0),
        ("heads", "image"): (5e-4, 0.0),  # of the modality rather than of all heads
        ("vectors", "image"): (5e-4, 0.0),
    }


def test_a_fusion_has_the_rates_of_a_head_and_its_parts_those_of_their_modality():
    rates = assign_rates(
        "finetune.preset=embracenet",
        "finetune.head={learning_rate: 3e-3}",
        "finetune.modalities.image={learning_rate: 5e-4}",
    )
    assert rates["fusion.linear.weight"] == (3e-3, 0.1)
    assert rates["fusion.docking.audio.weight"] == (3e-3, 0.1)
    assert rates["fusion.docking.image.weight"] == (5e-4, 0.1)


def test_adapters_have_rates_of_their_own_and_probes_none():
    rates = assign_rates(
        VIT,
        "encoders.image.tune=lora",
        "finetune.adapters={learning_rate: 3e-4}",
        "finetune.encoder={learning_rate: 1e-6}",
    )
    image_rates = {name: r for name, r in rates.items() if name.startswith("encoders.image")}
    assert image_rates
    assert all("lora_" in name for name in image_rates)
    assert set(image_rates.values()) == {(3e-4, 0.1)}
    assert not [name for name in rates if "probe" in name]


def test_what_an_encoder_says_never_to_decay_does_not():
    rates = assign_rates(VIT)
    assert rates["encoders.image.pos_embed"] == (1e-3, 0.0)
    assert rates["encoders.image.blocks.0.attn.qkv.weight"] == (1e-3, 0.1)
