"""umemma tune: what a trial trains, what stays, and that the test split is never opened."""

from __future__ import annotations

import contextlib
import json
import math
from pathlib import Path

import pytest
from toys.experiments import write_model
from toys.project import QUICK, ROOT, quick

from umemma import cli, config
from umemma.errors import UserError
from umemma.evaluation.search.space import parse_space
from umemma.evaluation.search.study import Trial
from umemma.stages import tune
from umemma.system.subprocesses import Ended

SPACE = parse_space(["finetune.batch_size=[16, 32]", "finetune.epochs=1..9"])


def change(sets):
    return quick(*sets)


def run_toy(folder: Path, trials: int, train, space=SPACE):
    return tune.search(folder, change, space, trials, train)


def test_a_failed_trial_does_not_end_the_search_and_a_stopped_one_does(tmp_path):
    places = []

    def train(params, folder):
        places.append((params.place, folder.name))
        if params.finetune.batch_size == 16:
            raise UserError("the loss is not finite")
        return params.finetune.epochs / 10

    report = run_toy(tmp_path / "abc", 8, train)
    assert len(report.trials) == 8
    assert {trial.failed for trial in report.trials} == {True, False}
    for trial in report.trials:
        assert trial.failed == (trial.settings["finetune.batch_size"] == 16)
        assert trial.reason == ("the loss is not finite" if trial.failed else "")
    best = max(t.settings["finetune.epochs"] for t in report.trials if not t.failed)
    assert report.best.settings == {"finetune.batch_size": 32, "finetune.epochs": best}
    assert places[0] == ("tune/abc/0", "0")
    # Settings that were tried already are not trained again.
    assert len(places) == len({tuple(trial.settings.values()) for trial in report.trials})

    def stop(params, folder):
        raise UserError("stopped", status=75)

    with pytest.raises(UserError, match="stopped"):
        run_toy(tmp_path / "new", 2, stop)
    assert len(run_toy(tmp_path / "new", 1, lambda params, folder: 1.0).trials) == 1


def test_a_search_whose_trials_all_fail_says_why(tmp_path):
    with pytest.raises(UserError, match=r"every trial failed\nthe validation score is not a num"):
        run_toy(tmp_path / "abc", 2, lambda params, folder: math.nan)


def test_only_the_model_of_the_best_stays(tmp_path):
    folder = tmp_path / "abc"
    for number in (0, 1):
        (folder / f"{number}/ume-mma").mkdir(parents=True)
        (folder / f"{number}/ume-mma/model.safetensors").write_text("")
        (folder / f"{number}/log.txt").write_text("")
    shared = tmp_path / "pretrain/audio"
    shared.mkdir(parents=True)
    (shared / "model.safetensors").write_text("")
    tune._link(shared, folder / "0/pretrain/audio")
    tune._remove_models(folder, [Trial(0, {"a": 1}, 0.5), Trial(1, {"a": 2}, 0.6)])
    assert (folder / "1/ume-mma/model.safetensors").exists()
    assert not (folder / "0/ume-mma").exists()
    assert (folder / "0/log.txt").exists()
    assert (shared / "model.safetensors").exists()


def test_a_study_belongs_to_the_settings_that_are_not_searched():
    def name(*sets, space=SPACE):
        first = {key: values.ends()[0] for key, values in space.items()}
        return tune.identify(space, quick(*sets, *tune.format_sets(first)), "shards")

    assert name() == name("finetune.batch_size=64", "evaluate.draws=9", "machine.threads=1")
    others = [
        name("finetune.learning_rate=0.5"),
        name("finetune.preset=modality-dropout"),
        name("pretrain.epochs=3"),
        name("seed=1"),
        name(space=parse_space(["finetune.batch_size=[16, 64]", "finetune.epochs=1..9"])),
    ]
    assert len({name(), *others}) == 6


def test_a_setting_that_changes_nothing_is_refused():
    def change(sets):
        return quick("finetune.preset=modality-dropout", *sets)

    with pytest.raises(UserError, match=r"pretrain.epochs changes nothing for .* modality-dropout"):
        tune.run(change, parse_space(["pretrain.epochs=1..3"]), 1)


def test_a_pretrained_model_is_reused_unless_its_settings_are_searched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for m in ("audio", "image"):
        write_unimodal(quick(), m)
    assert list_commands("finetune.learning_rate=0.5") == [["finetune-ensemble"]]
    home = Path("runs/digits/tune/abc/0/pretrain/audio").resolve()
    assert home == Path("models/digits/pretrain/audio").resolve()
    # Only what the searched setting changes is trained, and by the first trial that needs it.
    pretrain = ["pretrain-unimodal", "--modality", "audio"]
    own_rate = "pretrain.modalities.audio.learning_rate=0.5"
    assert list_commands(own_rate) == [pretrain, ["finetune-ensemble"]]
    assert list_commands(own_rate, "finetune.epochs=3") == [["finetune-ensemble"]]
    assert list_commands("finetune.preset=modality-dropout") == [["finetune-ensemble"]]


def list_commands(*sets: str) -> list[list[str]]:
    """Return the commands of a trial with these settings, and do what pretraining does to disk."""
    params = quick(*sets).model_copy(update={"place": "tune/abc/0"})
    commands = []
    job = tune._train(params, Path("runs/digits/tune/abc/0"), "shards")
    command = next(job)
    with contextlib.suppress(StopIteration):
        while True:
            commands.append(list(command.words[3:-2]))
            if command.words[3] == "pretrain-unimodal":
                write_unimodal(config.load_params(Path(command.words[-1])), command.words[5])
            command = job.send(Ended(0, 1.0, 1.0, 0.5))
    return commands


def write_unimodal(params: config.Params, modality: str) -> None:
    folder = params.paths.pretrain(modality)
    write_model(folder, params.unimodal_settings(modality, "shards"), "sum", {})
    (folder / "model.safetensors").write_text("")


def test_the_command_tunes_without_the_test_split(project, capsys):
    """It also resumes: the second call only prints, and the first one did the training."""
    for file in Path("data/shards/digits").glob("test-*"):
        file.unlink()
    sets = [word for text in QUICK for word in ("--set", text)]
    search = ["--search", "finetune.batch_size=[32, 64]", "--trials", "1", "--out", "best.yaml"]
    for _ in range(2):
        with pytest.raises(SystemExit) as end:
            cli.main(["tune", *sets, *search])
        assert end.value.code == 0
    printed = capsys.readouterr()
    (folder,) = [path for path in Path("runs/digits/tune").iterdir() if path.is_dir()]
    (trial,) = [path for path in folder.iterdir() if path.is_dir()]
    about = json.loads((trial / "ume-mma/model.json").read_text())
    size = about["settings"]["finetune"]["batch_size"]
    assert f"best settings: --set finetune.batch_size={size}" in printed.out
    assert f"{about['scores']['val_score']:.1%}" in printed.out
    assert "1 trials are there already" in printed.err
    best = config.load_params(Path("best.yaml"))
    assert best == quick(f"finetune.batch_size={size}")
    assert "# " in Path("best.yaml").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "names nothing to search"),
        (["--search", "finetune.epochs=0..3"], "greater than 0"),
        (["--search", "finetune.epoch=1..3"], "unknown key"),
    ],
)
def test_what_is_put_in_wrong_is_one_message(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    with pytest.raises(SystemExit) as end:
        cli.main(["tune", *words])
    assert end.value.code == 2
    assert message in capsys.readouterr().err
    assert not Path("runs/digits/tune").exists()
