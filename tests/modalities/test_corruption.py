"""Corruption of media: exact shares, ratios and places, by the key of the sample alone."""

from __future__ import annotations

import io
import itertools
import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from umemma.errors import UserError
from umemma.modalities import audio, corruption, series, video
from umemma.modalities.corruption import (
    MODULES,
    SEVERITIES,
    Corruption,
    cells,
    clips,
    grades,
    list_corruptions,
    pictures,
    select_corruptions,
    sound,
    time_series,
    words,
)
from umemma.modalities.files.arrays import read_first_npy, write_npy
from umemma.types import (
    AudioInput,
    ImageInput,
    Packing,
    SeriesInput,
    Sound,
    TextInput,
    VectorInput,
    VideoInput,
)

WHITE = torch.full((1, 3, 10, 10), 255, dtype=torch.uint8)
TONE = Sound(np.sin(np.arange(1000) + 0.5).astype(np.float32), 1000)


def number(value: int = 7) -> np.ndarray:
    return np.array([value], np.uint64)


@pytest.mark.parametrize("value", [0, 7, 2**63, 2**64 - 1])
@pytest.mark.parametrize(("share", "size"), [(0.1, 2), (0.5, 10), (0.7, 14)])
def test_a_burst_has_its_exact_length_within_the_medium(value, share, size):
    burst = grades.place_burst(number(value), 20, share)
    assert burst.stop - burst.start == size
    assert burst.start >= 0
    assert burst.stop <= 20


def test_every_place_of_a_burst_occurs_equally_often():
    starts = [grades.place_burst(number(value), 5, 0.6).start for value in range(3000)]
    assert np.bincount(starts) == pytest.approx([1000, 1000, 1000], rel=0.1)


def test_a_share_is_exact_never_all_and_grows():
    chosen = [grades.choose_share(number(), 10, share) for share in grades.SHARES]
    assert [int(one.sum()) for one in chosen] == [1, 2, 3, 5, 7]
    for weaker, stronger in itertools.pairwise(chosen):
        assert (stronger | ~weaker).all()
    assert not grades.choose_share(number(), 1, 0.7).any()
    assert grades.choose_share(number(), 0, 0.7).shape == (0,)
    assert grades.choose_share(number(), 2, 1.0).sum() == 1


@pytest.mark.parametrize(("share", "pixels"), [(0.1, 9), (0.2, 20), (0.3, 30), (0.5, 49)])
def test_a_cover_has_its_area(share, pixels):
    """The sides are whole: of 100 pixels 3 x 3, 4 x 5, 5 x 6 and 7 x 7."""
    covered = pictures.corrupt(WHITE, "occlusion", share, number())
    assert int((covered[0, 0] == 0).sum()) == pixels
    rows, columns = (covered[0, 0] == 0).nonzero().T
    height = int(rows.max() - rows.min()) + 1
    width = int(columns.max() - columns.min()) + 1
    assert height * width == pixels
    assert (WHITE == 255).all()


def test_noise_has_the_standard_deviation_of_its_level():
    grey = torch.full((1, 1, 100, 100), 128, dtype=torch.uint8)
    noisy = pictures.corrupt(grey, "noise", 0.08, number())
    assert float((noisy / 255).std()) == pytest.approx(0.08, rel=0.05)
    assert noisy.dtype == torch.uint8


def test_blur_spreads_a_point_as_a_normal_distribution_in_proportion_to_the_side():
    point = torch.zeros(1, 1, 113, 113, dtype=torch.uint8)
    point[..., 56, 56] = 255
    blurred = pictures.corrupt(point, "blur", 2, number())[0, 0] / 255  # sigma 113 / 112
    assert float(blurred[56, 56]) == pytest.approx(1 / (2 * math.pi), abs=0.005)
    assert int((blurred > 0).sum()) > 9
    one = torch.full((1, 3, 1, 1), 9, dtype=torch.uint8)
    assert pictures.corrupt(one, "blur", 6, number()).equal(one)


@pytest.mark.parametrize("ratio", [20, 0])
def test_the_noise_of_a_sound_has_its_signal_to_noise_ratio(ratio):
    noisy = sound.corrupt(TONE, 500, "noise", ratio, number())
    noise = (noisy.samples - TONE.samples)[:500].astype(np.float64)
    power = np.square(TONE.samples[:500], dtype=np.float64).mean()
    assert 10 * np.log10(power / np.square(noise).mean()) == pytest.approx(ratio, abs=1e-3)
    assert np.array_equal(noisy.samples[500:], TONE.samples[500:])  # that nobody hears


def test_a_burst_of_silence_lies_in_what_is_heard():
    silenced = sound.corrupt(TONE, 500, "burst", 0.3, number())
    assert int((silenced.samples == 0).sum()) == 150
    assert np.array_equal(silenced.samples[500:], TONE.samples[500:])


def test_a_silent_sound_gets_no_noise():
    silence = Sound(np.zeros(10, np.float32), 1000)
    assert not sound.corrupt(silence, 10, "noise", 0, number()).samples.any()


def make_clip(levels: list[int]) -> bytes:
    frames = []
    for level in levels:
        file = io.BytesIO()
        Image.new("L", (8, 8), level).save(file, format="JPEG")
        frames.append(file.getvalue())
    return b"".join(frames)


def test_frames_turn_black_or_freeze_and_padding_stays():
    spec = VideoInput(frames=12, size=8, channels=1)
    data = make_clip([20 * i for i in range(1, 11)])
    intact = video.decode(data, spec)[:, 0, 0, 0].tolist()
    burst = grades.place_burst(number(), 10, 0.3)
    black = clips.decode(data, spec, "burst", 0.3, number())[:, 0, 0, 0].tolist()
    assert black == [0 if burst.start <= i < burst.stop else intact[i] for i in range(12)]
    assert black.count(0) == 3 + 2
    frozen = clips.decode(data, spec, "freeze", 0.3, number())[:, 0, 0, 0].tolist()
    before = intact[burst.start - 1]
    assert frozen == [before if burst.start <= i < burst.stop else intact[i] for i in range(12)]
    noisy = clips.decode(data, spec, "noise", 0.38, number())
    assert not noisy[10:].any()
    assert noisy[:10].flatten(1).any(1).all()


def test_a_burst_in_a_series_is_filled_as_its_holes_are():
    line = np.arange(20, dtype=np.float32)[:, None]
    data = write_npy(line) + write_npy(np.array(50.0))
    dropped = time_series.drop_burst(data, 0.3, number())
    samples, rest = read_first_npy(dropped)
    assert int(np.isnan(samples).sum()) == 6
    assert rest == write_npy(np.array(50.0))
    spec = SeriesInput(channels=1, mean=(0.0,), std=(1.0,), steps=20)
    burst = grades.place_burst(number(), 20, 0.3)
    assert 0 < burst.start < burst.stop < 20
    assert series.decode(dropped, spec)[0].tolist() == line[:, 0].tolist()


def test_words_are_dropped_and_the_others_keep_their_order():
    data = " ".join(f"w{i}" for i in range(10)).encode()
    left = words.drop_words(data, 0.3, number()).split()
    assert len(left) == 7
    assert left == sorted(left)
    assert words.drop_words(b"one", 0.7, number()) == b"one"


def test_cells_become_empty_and_one_stays():
    data = json.dumps({"a": 1.0, "b": "x", "c": None, "d": 2.0, "e": 3.0}).encode()
    left = json.loads(cells.empty_cells(data, 0.5, number()))
    assert sum(cell is not None for cell in left.values()) == 2
    assert json.loads(cells.empty_cells(b'{"a": 1.0}', 0.7, number())) == {"a": 1.0}


def test_numbers_become_unknown_and_noise_is_in_standard_deviations():
    spec = VectorInput(width=2000, mean=(0.0,) * 2000, std=(10.0,) * 2000)
    x = np.ones(2000, np.float32)
    x[0] = np.nan
    for kind, severity in (("drop", 4), ("noise", 3)):
        change = Corruption("scan", kind, severity, 0)
        corrupted = corruption.decode(write_npy(x), spec, change, "k")
        if kind == "drop":
            assert int(corrupted.isnan().sum()) == 1 + round(0.5 * 1999)
        else:
            assert float(corrupted[1:].std()) == pytest.approx(10, rel=0.1)
            assert corrupted[0].isnan()


def test_a_corruption_belongs_to_the_key_the_modality_the_kind_and_the_seed():
    spec = AudioInput(sample_rate=1000, seconds=1.0, mels=8, window=50, hop=50)
    packed = audio.pack(TONE, Packing(sample_rate=1000))
    assert packed is not None
    one = Corruption("audio", "noise", 3, 0)
    first = corruption.decode(packed.data, spec, one, "k")
    assert first.equal(corruption.decode(packed.data, spec, one, "k"))
    others = [(one, "l"), (one._replace(modality="b"), "k"), (one._replace(seed=1), "k")]
    for other, key in others:
        assert not first.equal(corruption.decode(packed.data, spec, other, key))


def test_a_stronger_noise_is_the_same_noise_enlarged():
    weak = sound.corrupt(TONE, 1000, "noise", 20, number()).samples - TONE.samples
    strong = sound.corrupt(TONE, 1000, "noise", 0, number()).samples - TONE.samples
    np.testing.assert_allclose(strong, 10 * weak, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(MODULES))
def test_every_corruption_has_five_levels_that_are_described(kind):
    for name in list_corruptions(kind):
        shown = [corruption.describe_level(kind, name, severity) for severity in SEVERITIES]
        assert len(set(shown)) == 5


MODALITIES = {"audio": "audio", "front": "image", "mine": "import:my.kind"}


def test_the_pairs_that_are_meant():
    assert select_corruptions(MODALITIES, [], []) == [
        ("audio", "noise"),
        ("audio", "burst"),
        ("front", "noise"),
        ("front", "blur"),
        ("front", "occlusion"),
    ]
    assert select_corruptions(MODALITIES, [], ["blur"]) == [("front", "blur")]
    assert select_corruptions(MODALITIES, ["audio"], ["noise"]) == [("audio", "noise")]


@pytest.mark.parametrize(
    ("names", "corruptions", "message"),
    [
        (["sound"], [], "unknown modality 'sound'"),
        (["mine"], [], "mine is of a kind that has no corruption"),
        ([], ["fog"], "unknown corruption 'fog'"),
        (["audio"], ["blur"], "blur is no corruption of audio"),
        (["audio", "front"], ["blur"], "blur is no corruption of audio"),
        ([], ["drop"], "drop is no corruption of audio, front, mine"),
    ],
)
def test_a_choice_that_fits_nothing_is_refused(names, corruptions, message):
    with pytest.raises(UserError, match=message) as error:
        select_corruptions(MODALITIES, names, corruptions)
    assert error.value.exit_status == 2


def test_nothing_to_corrupt_is_refused():
    with pytest.raises(UserError, match="no modality has a corruption"):
        select_corruptions({"mine": "import:my.kind"}, [], [])


def test_a_text_loses_tokens():
    spec = TextInput(length=12)
    change = Corruption("text", "drop", 5, 0)
    intact = corruption.decode(b"cat", spec, change, "k")
    ten = corruption.decode(b"cat cat cat cat cat cat cat cat cat cat", spec, change, "k")
    assert int((intact != 0).sum()) == 3  # the start, the word, the end
    assert int((ten != 0).sum()) == 5


def test_an_image_is_corrupted_at_the_size_of_the_encoder():
    file = io.BytesIO()
    Image.new("L", (64, 64), 255).save(file, format="PNG")
    spec = ImageInput(size=10, channels=1)
    change = Corruption("image", "occlusion", 2, 0)
    covered = corruption.decode(file.getvalue(), spec, change, "k")
    assert int((covered == 0).sum()) == 20
