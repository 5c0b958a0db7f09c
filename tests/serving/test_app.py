"""What the server answers, beside what the model answers in this process."""

from __future__ import annotations

import base64
import json
import os
import tempfile
import threading
import time

import numpy as np
import pytest
import requests
from toys.models import save_model
from toys.serving import CLASSES, EVIL, start_thread

import umemma
from umemma.serving import app
from umemma.serving.limits import Limits
from umemma.system.files import replace_nan

TEXT = "two dogs – Hündchen"
WRIST = [[0.5, -1.0], [1.5, 2.0], [0.0, 0.25]]
CHART = {"age": 61.5, "ward": "north"}


def predict(address, query="", **request):
    response = requests.post(f"{address}/predict{query}", timeout=60, **request)
    assert response.headers["content-type"] == "application/json"
    return response.status_code, response.json()


def encode(path):
    return base64.b64encode(path.read_bytes()).decode()


def check_same(answer, prediction):
    assert answer["label"] == prediction.label
    assert answer["probability"] == pytest.approx(prediction.probability, abs=1e-6)
    assert answer["probabilities"] == pytest.approx(prediction.probabilities, abs=1e-6)
    assert answer["present"] == list(prediction.present)


def test_json_and_a_form_get_what_the_model_answers(address, model, media):
    files = {m: (media / f"x.{ending}") for m, ending in (("image", "png"), ("audio", "wav"))}
    expected = model.predict(**files, text=TEXT, scan=[1.0, -2.0], wrist=(WRIST, 100), chart=CHART)
    assert expected.present == tuple(model.modalities)
    numbers = {"scan": [1, -2], "wrist": {"samples": WRIST, "rate": 100}, "chart": CHART}
    encoded = {m: encode(path) for m, path in files.items()}
    status, answer = predict(address, json={**encoded, **numbers, "text": TEXT})
    assert status == 200
    check_same(answer, expected)
    assert answer["warnings"] == []
    assert "explanation" not in answer
    fields = {m: json.dumps(value) for m, value in numbers.items()}
    uploads = {m: path.read_bytes() for m, path in files.items()}
    status, answer = predict(address, data={**fields, "text": TEXT}, files=uploads)
    assert status == 200
    check_same(answer, expected)


def test_files_of_numbers_and_of_text(address, model, tmp_path):
    np.save(tmp_path / "scan.npy", [1.0, -2.0])
    (tmp_path / "text.txt").write_text(TEXT, encoding="utf-8")
    (tmp_path / "wrist.csv").write_text("\n".join(f"{x},{y}" for x, y in WRIST))
    (tmp_path / "chart.json").write_text(json.dumps(CHART))
    paths = {path.stem: path for path in tmp_path.iterdir()}
    expected = model.predict(text=TEXT, scan=[1.0, -2.0], wrist=WRIST, chart=CHART)
    uploads = {m: path.read_bytes() for m, path in paths.items()}
    check_same(predict(address, files=uploads)[1], expected)
    encoded = {m: encode(path) for m, path in paths.items() if m != "text"}
    check_same(predict(address, json={**encoded, "text": TEXT})[1], expected)


def test_what_is_left_out_is_absent(address, model):
    for sample in ({"text": TEXT}, {"text": TEXT, "image": None, "scan": None}):
        check_same(predict(address, json=sample)[1], model.predict(text=TEXT))
    # What a browser sends of an empty form: files that nobody chose, empty fields.
    form = {"text": (None, TEXT), "image": ("", b""), "scan": (None, " "), "audio": (None, "")}
    check_same(predict(address, files=form)[1], model.predict(text=TEXT))


def test_an_explanation_adds_up(address, model, media):
    sample = {"image": encode(media / "x.png"), "text": TEXT}
    _, answer = predict(address, "?explain=true", json=sample)
    expected = model.explain(image=media / "x.png", text=TEXT)
    check_same(answer, expected.prediction)
    explanation = answer["explanation"]
    for name in CLASSES:
        assert explanation["prior"][name] == pytest.approx(expected.prior[name])
        for m in model.modalities:
            here = explanation["contributions"][m][name]
            assert here == pytest.approx(expected.contributions[m][name], abs=1e-5)
        pair = explanation["interactions"]["image+text"][name]
        assert pair == pytest.approx(expected.interactions["image+text"][name], abs=1e-5)


def test_a_corrupt_medium_is_absent_with_a_warning_or_fails(address, model, media):
    sample = {"files": {"image": b"no picture"}, "data": {"text": TEXT}}
    status, answer = predict(address, **sample)
    assert status == 200
    check_same(answer, model.predict(text=TEXT))
    reason = "image: not a readable image: unknown format"
    assert answer["warnings"] == [f"{reason}; predicted without it"]
    assert predict(address, "?broken=fail", **sample) == (422, {"error": reason})
    strict = umemma.load(media / "model", device="cpu", broken="fail")
    with start_thread(strict, Limits(2**20, 8, 1)) as address:
        assert predict(address, **sample) == (422, {"error": reason})
        assert predict(address, "?broken=absent", **sample)[0] == 200


KNOWN = "Known: audio, chart, image, scan, text, wrist."
NOTHING = "no modality is present"


@pytest.mark.parametrize(
    ("request_", "status", "error", "hint"),
    [
        ({"json": {"imgae": ""}}, 422, "unknown modality 'imgae'", f"'image'? {KNOWN}"),
        ({"files": {"front": b"x"}}, 422, "unknown modality 'front'", KNOWN),
        ({"json": {}}, 422, NOTHING, "This model predicts from audio or chart"),
        ({"json": {"text": " "}}, 422, NOTHING, "This model predicts from audio or chart"),
        ({"json": {"image": None}}, 422, NOTHING, "This model predicts from audio or chart"),
        ({"json": {"text": 5}}, 422, "text: has to be a string", ""),
        ({"json": {"image": "?"}}, 422, "image: not base64", "In JSON a file is its bytes"),
        ({"json": {"image": [1]}}, 422, "image: has to be a file", "an uploaded file"),
        ({"files": {"image": (None, "x.png")}}, 422, "image: has to be a file", "uploaded"),
        ({"files": {"scan": (None, "1 2")}}, 400, "scan is not JSON", ""),
        ({"json": [1]}, 400, "the body is not a JSON object", "MODALITY"),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "not JSON", ""),
        ({"data": b"x", "headers": {"Content-Type": "image/png"}}, 415, "neither JSON", "Send"),
        ({"data": {"text": "x"}}, 415, "neither JSON", "multipart/form-data"),
        ({"data": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 400, "boundary", ""),
        ({"files": [("image", b"a"), ("image", b"b")]}, 422, "image: sent twice", "once"),
        ({"files": [("image", b"a")] * 7}, 400, "Too many files", ""),
        ({"json": {"text": "x" * (2**20 + 1)}}, 413, "text: a text over 1,048,576 bytes", "less"),
        ({"files": {"text": b"x" * (2**20 + 1)}}, 413, "text: a text over 1,048,576", "less"),
    ],
)
def test_a_wrong_request_gets_one_clear_message(address, request_, status, error, hint):
    got, answer = predict(address, **request_)
    assert got == status
    assert error in answer["error"]
    assert hint in answer.get("hint", "")
    assert answer.keys() <= {"error", "hint"}


def test_a_wrong_option_a_wrong_address_and_a_wrong_method(address):
    wrong = predict(address, "?broken=maybe", json={"text": TEXT})
    assert wrong == (422, {"error": "broken: input should be 'absent' or 'fail'"})
    for path, method, status in (("/x", "GET", 404), ("/predict", "GET", 405)):
        response = requests.request(method, address + path, timeout=60)
        assert response.status_code == status
        assert "POST /predict" in response.json()["hint"]


def test_a_string_never_names_a_file_of_the_server(address, media):
    """Not of a modality that takes files, nor of one that takes numbers."""
    for name in ("image", "scan", "wrist", "chart"):
        for path in (media / "x.png", "/etc/hosts", "/etc/passwd/", "../x.png"):
            status, answer = predict(address, "?broken=fail", json={name: str(path)})
            assert status in (400, 422)
            assert "missing" not in answer["error"]
            assert str(path) not in json.dumps(answer)
            status, _ = predict(address, files={name: (None, json.dumps(str(path)))})
            assert status == 422


def test_what_the_model_is(address, media):
    assert requests.get(f"{address}/health", timeout=60).json() == {"status": "ok"}
    response = requests.get(f"{address}/model", timeout=60)
    about = response.json()
    assert about["task"] == "multiclass"
    assert about["classes"] == CLASSES
    assert about["modalities"] == {
        "audio": {"kind": "audio"},
        "chart": {
            "kind": "table",
            "numbers": ["age"],
            "categories": {"ward": ["north", "south"]},
        },
        "image": {"kind": "image"},
        "scan": {"kind": "vector", "width": 2},
        "text": {"kind": "text"},
        "wrist": {"kind": "series", "channels": 2, "rate": 50.0},
    }
    assert about["explains"] is True
    assert about["limits"] == {"max_bytes": 2**21, "max_text_bytes": 2**20}
    assert str(media) not in response.text
    described = requests.get(f"{address}/openapi.json", timeout=60).json()
    content = described["paths"]["/predict"]["post"]["requestBody"]["content"]
    for kind in ("application/json", "multipart/form-data"):
        assert set(content[kind]["schema"]["properties"]) == set(about["modalities"])
    assert str(media) not in json.dumps(described)


def test_a_model_without_class_frequencies_answers_without_an_explanation(tmp_path):
    model = umemma.load(save_model(tmp_path / "m", "text"), device="cpu")
    with start_thread(model, Limits(2**20, 8, 1)) as address:
        assert requests.get(f"{address}/model", timeout=60).json()["explains"] is False
        assert predict(address, json={"text": TEXT})[0] == 200
        status, answer = predict(address, "?explain=true", json={"text": TEXT})
        assert (status, list(answer)) == (422, ["error"])


def test_a_bug_says_nothing_of_the_server_and_does_not_end_it(address, monkeypatch, messages):
    def fail(result):
        raise RuntimeError("secret in /home/someone")

    with monkeypatch.context() as patch:
        patch.setattr(app, "describe_prediction", fail)
        answer = predict(address, json={"text": TEXT})
    assert answer == (500, {"error": "an error of the server, which its log has"})
    end = time.monotonic() + 30
    while "secret in /home/someone" not in "".join(messages):  # it comes after the answer
        assert time.monotonic() < end
        time.sleep(0.01)
    assert predict(address, json={"text": TEXT})[0] == 200


def test_so_many_threads_answer_at_one_time(model, monkeypatch):
    at_work = []
    most = []
    describe = app.describe_prediction

    def describe_slowly(result):
        at_work.append(None)
        most.append(len(at_work))
        time.sleep(0.05)
        at_work.pop()
        return describe(result)

    monkeypatch.setattr(app, "describe_prediction", describe_slowly)
    answers = []
    with start_thread(model, Limits(2**20, 8, 2)) as address:

        def ask():
            answers.append(predict(address, json={"text": TEXT})[0])

        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert answers == [200] * 6
    assert max(most) == 2


def test_uploads_leave_no_file(model, monkeypatch, tmp_path):
    """A large one is in a file without a name until its request is answered."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen = []
    describe = app.describe_prediction

    def look(result):
        seen.append((list(tmp_path.iterdir()), list_open_files(tmp_path)))
        return describe(result)

    monkeypatch.setattr(app, "describe_prediction", look)
    with start_thread(model, Limits(2**23, 8, 1)) as address:
        sample = {"files": {"image": bytes(2**21)}, "data": {"text": TEXT}}
        assert predict(address, **sample)[0] == 200
        ((names, open_files),) = seen
        assert names == []
        assert len(open_files) == 1
        assert list_open_files(tmp_path) == []
        assert predict(address, "?broken=fail", **sample)[0] == 422
        assert list_open_files(tmp_path) == []


def list_open_files(folder):
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            continue
        if target.startswith(str(folder)):
            links.append(target)
    return links


def test_numbers_that_json_lacks_are_null():
    assert replace_nan({"a": [1.0, float("nan")], "b": (float("inf"),)}) == {
        "a": [1.0, None],
        "b": [None],
    }


def test_names_from_data_are_json_and_the_page_makes_them_text(address):
    _, answer = predict(address, json={"text": TEXT})
    assert EVIL in answer["probabilities"]
    page, policy = app.load_page()
    for sink in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval("):
        assert sink not in page
    assert "http:" not in page
    assert "https:" not in page
    assert "unsafe" not in policy
    response = requests.get(address, timeout=60)
    assert response.headers["content-security-policy"] == policy
    assert response.headers["x-content-type-options"] == "nosniff"


def test_a_rate_of_no_sense_is_refused(address):
    for rate in (0, -1, True, "50", 1e-300, None):
        sample = {"wrist": {"samples": WRIST, "rate": rate}}
        status, answer = predict(address, json=sample)
        assert status == 422
        assert answer["error"].startswith("wrist: has to be a list of rows of numbers")
