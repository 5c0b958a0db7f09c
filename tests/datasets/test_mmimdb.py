"""MM-IMDb: a small tree in the official layout, every trap, and the real split where it is at
hand.
"""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from toys.project import ROOT

from umemma import config, modalities
from umemma.datasets import mmimdb
from umemma.errors import UserError
from umemma.types import Packing, Record, Unreadable
from umemma.validation import validate

REAL = ROOT.parent / "shared" / "mirror" / "mmimdb"

DRAMA, COMEDY, SCI_FI, FILM_NOIR = 0, 1, 10, 22
PLOTS = [
    "A café.",
    "A café at night, « en été ».",
    "Short.",
    "A café at eight, « en été ».",
]  # two of the longest
FILMS: dict[str, Any] = {
    "0000005": {
        "genres": ["Short", "Drama"],
        "plot": PLOTS,
        "plot outline": "A longer outline. " * 9,
        "year": 1893,
    },
    "0000006": {"genres": ["Film-Noir", "News", "Sci-Fi", "Sci-Fi"], "plot": ["Alone."]},
    "0000007": {"genres": ["Adult", "News", "Reality-TV", "Talk-Show"], "plot": ["On air."]},
    "0000008": {"genres": ["Comedy"]},
    "0000009": {"genres": ["Comedy"], "plot": [" ", ""]},
    "0000010": {"genres": "Comedy", "plot": ["x"]},
    "0000011": {"genres": ["Comedy"], "plot": "one text, not a list of them"},
    "0000012": {"genres": ["Comedy"], "plot": ["x", 3]},
    "0000013": {"plot": ["x"]},
    "0000014": {"genres": ["Comedy"], "plot": None},
    "0000015": ["not", "an", "object"],
}
SPLIT = {
    "train": [
        "0000005",
        "0000006",
        "0000007",
        "0000008",
        "0000010",
        "0000011",
        "0000012",
        "0000013",
        "0000015",
    ],
    "dev": ["0000009", "0000014", "0000020", "0000021"],
    "test": ["0000022", "0000023"],
}


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 9), (200, 30, 30)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def raw(tmp_path) -> Path:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "split.json").write_text(json.dumps(SPLIT))
    for film, entry in FILMS.items():
        (tmp_path / "dataset" / f"{film}.json").write_text(json.dumps(entry))
        (tmp_path / "dataset" / f"{film}.jpeg").write_bytes(jpeg())
    # 0000020 has no .json at all
    (tmp_path / "dataset" / "0000021.json").write_bytes(
        b'{"genres": ["Drama"], "plot": ["caf\xe9"]}'
    )
    (tmp_path / "dataset" / "0000022.json").write_text('{"genres": ["Drama"], "plot": ["cut o')
    (tmp_path / "dataset" / "0000023.json").write_bytes(
        json.dumps({"genres": ["Drama"]}).encode("utf-16")
    )
    return tmp_path


def listed(raw: Path, **options: Any) -> dict[str, Record]:
    found = list(mmimdb.records(raw, mmimdb.Options(**options)))
    assert len({record.key for record in found}) == len(found)
    return {record.key: record for record in found}


def test_a_film_has_its_longest_plot_and_its_genres(raw):
    found = listed(raw)
    assert set(found) == {film for films in SPLIT.values() for film in films}
    film = found["0000005"]
    assert film.label == (DRAMA, 21)
    assert film.media == {
        "image": raw / "dataset" / "0000005.jpeg",
        "text": PLOTS[1],
    }  # not the outline, not the last
    assert (film.split, film.group, film.problem, film.left_out) == ("train", "0000005", "", "")
    assert found["0000006"].label == (SCI_FI, FILM_NOIR)  # sorted, once each, without News
    assert [found[film].split for film in ("0000009", "0000022")] == ["val", "test"]  # dev is val


def test_the_order_is_not_that_of_the_lists(raw):
    films = [film for films in SPLIT.values() for film in films]
    assert list(listed(raw)) == list(listed(raw))  # the same every time
    assert list(listed(raw)) != films
    assert sorted(listed(raw)) == sorted(films)


def test_every_pair_of_poster_and_plot(raw):
    found = listed(raw, plots="all")
    pairs = [found[f"0000005-{n}"] for n in range(4)]
    assert [pair.media["text"] for pair in pairs] == PLOTS
    assert {pair.media["image"] for pair in pairs} == {raw / "dataset" / "0000005.jpeg"}
    assert {(pair.group, pair.label) for pair in pairs} == {("0000005", (DRAMA, 21))}
    firsts = {f"{film}-0" for films in SPLIT.values() for film in films}
    assert set(found) == firsts | {f"0000005-{n}" for n in range(4)}
    assert list(found["0000008-0"].media) == ["image"]
    assert found["0000020-0"].problem == "no .json"


@pytest.mark.parametrize("film", ["0000008", "0000009", "0000014"])
def test_a_film_without_a_plot_lacks_its_text(raw, film):
    record = listed(raw)[film]
    assert record.media == {"image": raw / "dataset" / f"{film}.jpeg"}
    assert (record.label, record.problem) == ((COMEDY,), "")


def test_a_film_of_none_of_the_genres_is_left_out(raw):
    record = listed(raw)["0000007"]
    assert (record.left_out, record.problem, record.label) == ("no genre of the 23", "", ())
    assert sum(bool(record.left_out) for record in listed(raw).values()) == 1


@pytest.mark.parametrize(
    ("film", "problem"),
    [
        ("0000010", "genres that are not a list of names"),
        ("0000013", "genres that are not a list of names"),
        ("0000015", "damaged .json"),
        ("0000020", "no .json"),
        ("0000021", "damaged .json"),
        ("0000022", "damaged .json"),
        ("0000023", "damaged .json"),
    ],
)
def test_a_film_that_cannot_be_read_is_a_problem_of_its_own(raw, film, problem):
    record = listed(raw)[film]
    assert (record.problem, record.label, record.media) == (problem, None, {})
    assert sum(bool(record.problem) for record in listed(raw).values()) == 7


@pytest.mark.parametrize("film", ["0000011", "0000012"])
@pytest.mark.parametrize("plots", ["longest", "all"])
def test_plots_that_cannot_be_read_leave_the_poster(raw, film, plots):
    (record,) = [record for record in listed(raw, plots=plots).values() if record.group == film]
    text = Unreadable("plots that are not a list of texts")
    assert (record.problem, record.media) == (
        "",
        {"image": raw / "dataset" / f"{film}.jpeg", "text": text},
    )


def test_what_is_listed_can_be_packed(raw):
    packed = modalities.pack(listed(raw)["0000005"].media, Packing())
    assert sorted(packed) == ["image.jpg", "text.txt"]
    assert packed["text.txt"].decode() == PLOTS[1]
    # Half of a surrogate pair is JSON, but no text: packing refuses that plot alone.
    (raw / "dataset" / "0000005.json").write_text('{"genres": ["Drama"], "plot": ["\\ud800"]}')
    packed, broken = modalities.pack_readable(listed(raw)["0000005"].media, Packing())
    assert (sorted(packed), broken) == (["image.jpg"], {"text": "text that is not UTF-8"})


def test_a_lost_poster_is_left_to_packing(raw):
    (raw / "dataset" / "0000005.jpeg").unlink()
    media = listed(raw)["0000005"].media
    with pytest.raises(ValueError, match="file is missing"):
        modalities.pack(media, Packing())


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (None, "not there yet"),
        ("[]", "not a JSON object"),
        ('{"train": [], "test": []}', "not three lists"),
        ('{"train": [], "dev": [], "test": [], "extra": []}', "not three lists"),
        ('{"train": [], "dev": 3, "test": []}', "not three lists"),
        ('{"train": [106714], "dev": [], "test": []}', "not three lists"),
        ('{"train": ["0106714", "../x"], "dev": [], "test": []}', r"'\.\./x' is not an id"),
        ('{"train": ["106714"], "dev": [], "test": []}', "'106714' is not an id"),
        ('{"train": ["0106714"], "dev": ["0106714"], "test": []}', "twice"),
    ],
)
def test_a_wrong_split_is_refused(tmp_path, text, what):
    if text is not None:
        (tmp_path / "split.json").write_text(text)
    with pytest.raises(UserError, match=what) as error:
        list(mmimdb.records(tmp_path, mmimdb.Options()))
    assert error.value.where.endswith("split.json")
    assert "umemma download mmimdb" in error.value.hint


@pytest.mark.parametrize(
    ("member", "where"),
    [
        ("mmimdb/dataset/0106714.jpeg", "dataset/0106714.jpeg"),
        ("mmimdb/dataset/0106714.json", "dataset/0106714.json"),
        ("mmimdb/split.json", "split.json"),
        ("dataset/0106714.jpeg", "dataset/0106714.jpeg"),
        ("split.json", "split.json"),
        (
            "root/images/0106714.jpeg",
            "dataset/0106714.jpeg",
        ),  # the layout of prompt-learning papers
        ("root/labels/0106714.json", "dataset/0106714.json"),
        ("food101/split.json", None),
        ("notsplit.json", None),
        ("mmimdb/dataset/106714.jpeg", None),
        ("mmimdb/dataset/01067140.jpeg", None),
        ("mmimdb/dataset/0106714.jpeg.txt", None),
        ("__MACOSX/mmimdb/dataset/._0106714.jpeg", None),
        ("mmimdb/dataset/٠١٠٦٧١٤.jpeg", None),
        ("mmimdb/README.md", None),
    ],
)
def test_the_archive_goes_to_its_places(member, where):
    assert mmimdb.place(member) == where


def test_sources_are_the_archive_and_the_split(tmp_path):
    archive, split = mmimdb.sources(tmp_path, mmimdb.Options())
    assert archive.urls == ("https://archive.org/download/mmimdb/mmimdb.tar.gz",)
    assert (archive.media, archive.files) == (True, 2 * sum(mmimdb.SPEC.expected.values()))
    assert archive.unpack is mmimdb.place
    assert (split.path, split.media) == ("split.json", False)
    assert "0106714.json" in archive.steps
    assert "split.json" in archive.steps


def test_the_variant_says_what_a_sample_is(tmp_path):
    per_movie, per_plot = (
        mmimdb.spec(tmp_path, mmimdb.Options(plots=plots)) for plots in ("longest", "all")
    )
    assert (per_movie.variant, per_plot.variant) == ("per movie", "per plot")
    assert per_movie.expected == {"train": 15552, "val": 2608, "test": 7799}
    assert not per_plot.expected
    assert per_movie.task == per_plot.task == "multilabel"
    assert len(set(per_movie.classes)) == 23
    names = [per_movie.classes[n] for n in (DRAMA, COMEDY, SCI_FI, FILM_NOIR)]
    assert names == ["Drama", "Comedy", "Sci-Fi", "Film-Noir"]


def test_the_recipe_is_valid():
    params = config.load_params(ROOT / "recipes" / "mmimdb.yaml")
    assert params.dataset == mmimdb.SPEC.name
    assert validate(mmimdb.Options, params.preprocess.options, "recipe") == mmimdb.Options()
    params.check_modalities(mmimdb.SPEC.modalities)
    with pytest.raises(UserError, match="plots"):
        validate(mmimdb.Options, {"plots": "shortest"}, "recipe")


@pytest.mark.skipif(not REAL.is_dir(), reason="the real split isn't at hand")
def test_the_real_split(tmp_path):
    shutil.copyfile(REAL / "split.json", tmp_path / "split.json")
    found = listed(tmp_path)  # every id 7 digits, none twice, or this raises
    assert Counter(record.split for record in found.values()) == mmimdb.SPEC.expected
    assert {record.problem for record in found.values()} == {"no .json"}
    # Not in the order of the lists, which is that of the rarest genre.
    assert [key for key, record in found.items() if record.split == "train"][:3] != [
        "0106714",
        "0204504",
        "1865357",
    ]
