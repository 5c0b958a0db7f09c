"""Models on the Hugging Face hub, against a hub on this machine."""

from __future__ import annotations

import pytest
from huggingface_hub import constants
from toys.hub import serve_hub
from toys.models import call, get_probabilities, make_picture, save_model

import umemma
from umemma.errors import UserError
from umemma.models import hub
from umemma.models.hub import HubName


@pytest.fixture
def online(tmp_path, monkeypatch):
    """A hub, and an empty cache."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "a token")
    with serve_hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("hf://me/toy", HubName("me/toy", None)),
        ("hf://me/toy.v1@refs/pr/1", HubName("me/toy.v1", "refs/pr/1")),
        ("hf://me", None),
        ("hf://me/toy/model", None),
        ("hf://../toy", None),
        ("hf://me/toy@", None),
    ],
)
def test_a_name_has_an_owner_and_maybe_a_revision(text, name):
    if name:
        assert hub.parse_name(text) == name
        return
    with pytest.raises(UserError, match="cannot read"):
        hub.parse_name(text)


def test_a_model_of_the_hub_answers_as_the_folder_does(tmp_path, online, capsys):
    folder = save_model(tmp_path / "model")
    stranger = {"weights.pkl": b"code", "hf/../../x.json": b"{}", "README.md": b"# a card"}
    first = online.add_folder("me/toy", folder, stranger)
    second = online.add("me/toy", {"README.md": b"broken since"})
    picture = make_picture()
    expected = get_probabilities(umemma.load(folder).predict(image=picture))
    loaded = umemma.load(f"hf://me/toy@{first}")
    assert (get_probabilities(loaded.predict(image=picture)) == expected).all()
    assert sorted(online.asked) == ["model.json", "model.safetensors"]  # the third is empty
    with pytest.raises(UserError, match=r"holds no model of umemma: no model\.json"):
        umemma.load(f"hf://me/toy@{second}")
    with pytest.raises(UserError, match="cannot read"):
        umemma.load("hf://me/toy@")
    # The command line, with the copy in the cache.
    from PIL import Image

    Image.fromarray(picture).save(tmp_path / "x.png")
    words = ("predict", "--image", str(tmp_path / "x.png"), "--model", f"hf://me/toy@{first}")
    assert call(*words) == 0
    assert len(online.asked) == 2
    online.commits.clear()
    assert call(*words) == 1
    assert "the hub: " in capsys.readouterr().err


def test_a_model_that_was_downloaded_needs_no_network(tmp_path, online, monkeypatch, messages):
    commit = online.add_folder("me/toy", save_model(tmp_path / "model"), {})
    folder = hub.fetch_model("hf://me/toy")
    assert messages == [f"hf://me/toy: commit {commit}\n"]
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert hub.fetch_model(f"hf://me/toy@{commit}") == folder
    with pytest.raises(UserError, match="the hub: "):
        hub.fetch_model("hf://me/another")


def test_a_file_that_is_too_large_is_not_downloaded(tmp_path, online):
    online.add_folder("me/toy", save_model(tmp_path / "model"), {})
    online.sizes["model.json"] = 2**30
    with pytest.raises(UserError, match=r"model\.json has 1073741824 bytes"):
        hub.fetch_model("hf://me/toy")
    assert online.asked == []


def test_only_the_files_of_a_model_are_files_of_a_model():
    assert hub.bound_of("model.safetensors") == 2**35
    assert hub.bound_of("hf/0123abcd/tokenizer.json") == 64 * 2**20
    for name in (
        "pytorch_model.bin",
        "hf/0123abcd/code.py",
        "hf/0123abcd/a/b.json",
        "x/model.json",
    ):
        assert hub.bound_of(name) is None


def test_a_pushed_model_has_its_files_and_its_card(tmp_path, online, capsys):
    folder = save_model(tmp_path / "model")
    (folder / "notes.txt").write_text("private")
    assert call("push", str(folder), "me/toy", "--private") == 1
    assert "no model card" in capsys.readouterr().err
    assert online.created == {}
    (tmp_path / "card").mkdir()
    (tmp_path / "card/README.md").write_text("---\nlicense: other\n---\n# toy\n")
    assert call("push", str(folder), "me/toy", "--private") == 0
    assert online.created == {"me/toy": True}
    ((commit, files),) = online.commits["me/toy"].items()
    assert f"pushed: hf://me/toy@{commit}" in capsys.readouterr().out
    assert sorted(files) == ["README.md", "metrics.csv", "model.json", "model.safetensors"]
    assert files["model.json"] == (folder / "model.json").read_bytes()
    assert umemma.load("hf://me/toy").classes == umemma.load(folder).classes
    with (folder / "model.safetensors").open("r+b") as file:
        file.truncate(100)
    assert call("push", str(folder), "me/toy") == 1
    assert "weights differ" in capsys.readouterr().err
    assert call("push", str(folder), "toy") == 2


@pytest.mark.parametrize(
    "answer",
    [
        [],
        "no hub",
        {"id": "me/toy", "sha": "../../evil", "siblings": [{"rfilename": "model.json"}]},
        {"id": "me/toy", "sha": "a" * 40, "siblings": [{"rfilename": ["model.json"]}, 3]},
        {"id": "me/toy", "sha": None, "siblings": None},
    ],
)
def test_what_no_hub_answers_is_refused(online, answer):
    online.add("me/toy", {"model.json": b"{}", "model.safetensors": b""})
    online.answer = answer
    with pytest.raises(UserError, match="describes no repository"):
        umemma.load("hf://me/toy")
    assert online.asked == []
