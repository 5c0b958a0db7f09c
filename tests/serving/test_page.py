"""The page, used by hand in a browser: a file is chosen or dropped, a text typed, one left out."""

from __future__ import annotations

import pytest
from toys.browser import CHROMIUM, start_browser
from toys.serving import EVIL

CELLS = "[...row.children].map(cell => cell.textContent)"
ROWS = f"[...document.querySelectorAll('#{{}} .row')].map(row => {CELLS})"
ANSWERED = (
    "document.getElementById('from').textContent == 'from {}'"
    " && !document.querySelector('#result.old')"
)


def card(name, part):
    return f"[data-modality={name}] {part}"


def read_rows(page, name):
    """Return {first cell: last cell} of the rows of bars."""
    return {row[0]: row[-1] for row in page.evaluate(ROWS.format(name))}


def show_percents(prediction):
    return {
        name: f"{share:.1%}".replace("%", "\N{NO-BREAK SPACE}%")
        for name, share in prediction.items()
    }


def show_signed(explanation, label):
    shown = {}
    for m, numbers in explanation.contributions.items():
        shown[m] = f"{numbers[label]:+.2f}".replace("-", "\N{MINUS SIGN}")
        if m not in explanation.prediction.present:
            shown[m] = "absent"
    return shown


def check_shown(page, model, **sample):
    """Compare what the page shows with what the model answers from the same media."""
    expected = model.explain(**sample)
    page.wait_for(ANSWERED.format(", ".join(sorted(sample))))
    assert read_rows(page, "classes") == show_percents(expected.prediction.probabilities)
    label = expected.prediction.label
    shown = read_rows(page, "contributions")
    assert {m: shown[m] for m in model.modalities} == show_signed(expected, label)
    lead = page.evaluate("document.getElementById('label').textContent")
    assert lead.startswith(f"{label} · ")
    return shown


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with start_browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.mark.slow
def test_a_sample_is_given_by_hand_and_a_modality_left_out(page, address, model, media):
    picture, sound = media / "x.png", media / "x.wav"
    page.open(address, 1280, 900)
    page.wait_for("document.querySelectorAll('.card').length == 6")
    page.drop_file(card("image", ".drop"), picture)
    check_shown(page, model, image=picture)
    page.choose_file(card("audio", "input[type=file]"), sound)
    check_shown(page, model, image=picture, audio=sound)
    page.write(card("text", "textarea"), "two dogs")
    page.write(card("scan", "textarea"), "1, -2")
    page.write(card("chart", ".cells label:nth-child(2) input"), "north")
    given = {"image": picture, "audio": sound, "text": "two dogs"}
    given |= {"scan": [1.0, -2.0], "chart": {"ward": "north"}}
    before = check_shown(page, model, **given)

    # 1. Left out, and taken in again.
    page.click(card("audio", "header input"))
    del given["audio"]
    without = check_shown(page, model, **given)
    assert without["audio"] == "absent"
    assert without["image"] != before["image"]
    page.click(card("audio", "header input"))
    given["audio"] = sound
    assert check_shown(page, model, **given) == before

    # 2. What can't be read has its warning, and counts as absent.
    page.choose_file(card("image", "input[type=file]"), sound)
    del given["image"]
    check_shown(page, model, **given)
    warning = page.evaluate(f"document.querySelector('{card('image', '.warning')}').innerText")
    assert warning == "not a readable image: unknown format; predicted without it"

    # 3. The contributions of another class.
    label = next(name for name in model.classes if name != model.predict(**given).label)
    place = list(read_rows(page, "classes")).index(label) + 1
    page.click(f"#classes .row:nth-child({place})")
    shown = read_rows(page, "contributions")
    expected = show_signed(model.explain(**given), label)
    assert {m: shown[m] for m in model.modalities} == expected
    assert EVIL in read_rows(page, "classes")
    assert page.evaluate("document.querySelectorAll('#result img').length") == 0
    assert page.log == []


@pytest.mark.slow
def test_it_fits_a_phone_and_says_what_is_wrong(page, address):
    for width in (320, 390, 1280):
        page.open(address, width, 800, dark=width == 390)
        page.wait_for("document.querySelectorAll('.card').length == 6")
        page.write(card("text", "textarea"), "two dogs")
        page.wait_for(ANSWERED.format("text"))
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.write(card("scan", "textarea"), "one")
    error = page.wait_for("document.getElementById('error').innerText")
    assert error == "Scan is not JSON"
    assert page.evaluate("document.getElementById('label').textContent") == "–"
