"""The command line as a process of its own."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from toys.project import ROOT

import umemma
from umemma import cli
from umemma.cli.options import take_turns
from umemma.presets import PRESETS
from umemma.stages import finetune, pretrain
from umemma.system import cores

COMMANDS = [
    "download",
    "preprocess",
    "pretrain-unimodal",
    "finetune-ensemble",
    "evaluate-missing",
    "evaluate",
    "datasets",
]
PANELS = {
    "Data": ["init", "download", "doctor", "preprocess", "verify"],
    "Train and evaluate": [
        "pretrain-unimodal",
        "finetune-ensemble",
        "evaluate-missing",
        "evaluate",
        "evaluate-corrupted",
        "tune",
        "compare",
        "audit",
        "leaderboard",
        "protocol",
    ],
    "Use": ["predict", "export", "serve", "card", "push"],
    "Look": ["datasets", "encoders", "schema", "check"],
}


def run(*words: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "umemma", *words]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, **environment},
    )


def processor_seconds() -> float:
    """Return the processor time of finished child processes, which a busy machine hardly
    changes."""
    times = os.times()
    return times.children_user + times.children_system


def measure_library() -> float:
    """Return the processor time of a process that only imports what prints the help."""
    before = processor_seconds()
    subprocess.run([sys.executable, "-c", "import typer.rich_utils"], check=True)
    return processor_seconds() - before


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_help_answers_at_once(tmp_path, command):
    """In half a second of processor time; a slow machine has 2.5 times what the library needs."""
    words = ["--help"]
    if command:
        words = [command, "--help"]
    times = []
    for _ in range(3):
        before = processor_seconds()
        done = run(*words, folder=tmp_path)
        times.append(processor_seconds() - before)
        limit = max(0.5, 2.5 * measure_library())
        if times[-1] < limit:
            break
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert times[-1] < limit
    assert not list(tmp_path.iterdir())


def test_a_ctrl_c_while_libraries_clean_up_prints_nothing(tmp_path):
    """Such as torch at the end of Python, when the command has printed and written everything."""
    lines = [
        "import atexit, signal, umemma.cli",
        "atexit.register(signal.raise_signal, signal.SIGINT)",
        "umemma.cli.main(['--version'])",
    ]
    command = [sys.executable, "-c", "\n".join(lines)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("umemma ")


def test_help_imports_nothing_but_what_prints_it(tmp_path):
    """The log and its library take as long as the words."""
    ask = "import sys, umemma.cli; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    command = [sys.executable, "-c", ask]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert not {"loguru", "numpy", "pyarrow", "torch", "yaml"} & set(done.stdout.split())


@pytest.mark.parametrize(
    "stage",
    [
        "audit",
        "compare.cells",
        "compare.table",
        "evaluate",
        "inspection.check",
        "inspection.doctor",
        "preprocess",
        "protocol",
    ],
)
def test_a_stage_that_can_do_without_torch_does(tmp_path, stage):
    """A question to existing predictions, for example, is answered without importing torch."""
    code = f"import sys, umemma.stages.{stage}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 0


def test_help_shows_every_command_in_its_group(tmp_path):
    lines = run("--help", folder=tmp_path, COLUMNS="80").stdout.splitlines()
    group = ""
    commands: dict[str, list[str]] = {}
    for line in lines:
        assert len(line) <= 80
        if line.startswith("╭─"):
            group = line.strip("╭─╮ ")
        elif group in PANELS and line.startswith("│ ") and line[2] != " ":
            commands.setdefault(group, []).append(line.split()[1])
    assert commands == PANELS


def test_every_option_has_a_help_text():
    for name, command in typer.main.get_command(cli.app).commands.items():
        for parameter in command.params:
            assert parameter.help, f"{name}: {parameter.name}"


def test_help_lists_every_preset():
    command = typer.main.get_command(cli.app).commands["finetune-ensemble"]
    (option,) = [parameter for parameter in command.params if parameter.name == "preset"]
    assert option.help == f"The method, instead of finetune.preset: {', '.join(PRESETS)}."


@pytest.mark.parametrize("option", ["--force", "--again"])
@pytest.mark.parametrize(
    ("command", "stage"),
    [("pretrain-unimodal", pretrain), ("finetune-ensemble", finetune)],
)
def test_force_and_its_former_name_train_again(
    command, stage, option, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("dataset: digits\nmodalities: [audio]\n")
    forced = []

    def train(params, *arguments):
        forced.append(arguments[-2])
        return 0.5

    monkeypatch.setattr(stage, "run", train)
    for words in ([command], [command, option]):
        with pytest.raises(SystemExit) as end:
            cli.main(words)
        assert end.value.code == 0
    assert forced == [False, True]
    assert "validation score 50.0%" in capsys.readouterr().out


def test_help_shows_force_but_not_its_former_name(tmp_path):
    text = run("finetune-ensemble", "--help", folder=tmp_path).stdout
    assert "--force" in text
    assert "--again" not in text


def test_version(tmp_path):
    assert run("--version", folder=tmp_path).stdout == f"umemma {umemma.__version__}\n"


@pytest.mark.parametrize(
    "command",
    ["datasets", pytest.param("encoders", marks=pytest.mark.slow)],
)
def test_a_table_fits_80_columns(tmp_path, command):
    text = run(command, folder=tmp_path, COLUMNS="80").stdout
    assert "digits" in text or "cnn:small" in text
    for line in text.splitlines():
        if line.startswith(("│", "┃")):
            assert len(line) <= 80


def test_no_arguments_is_help(tmp_path):
    done = run(folder=tmp_path)
    assert done.returncode == 2
    assert "evaluate-missing" in done.stdout + done.stderr


def test_an_error_is_one_message_without_a_traceback(tmp_path):
    done = run("preprocess", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "Error: params.yaml: no such file\n"
        "Run umemma in the project root, start a project with umemma init, or use --params.\n"
    )


def test_a_terminal_that_knows_only_ascii_gets_all_of_it(tmp_path):
    """In a made-up command, as those that print such characters take long."""
    code = "from umemma import cli; "
    code += "cli.app.command('say')(lambda: print('45.2\\u201358.1 \\u00b1 3\\u2026 \\u00e9')); "
    code += "cli.main(['say'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        check=True,
    )
    assert done.stdout == b"45.2-58.1 +- 3... ?\n"


@pytest.mark.parametrize("words", [["--version"], ["datasets"], ["nonsense"]])
def test_full_streams_are_an_exit_status_and_no_traceback(tmp_path, words):
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "umemma", *words]
        done = subprocess.run(
            command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False
        )
        silent = subprocess.run(command, stdout=full, stderr=full, cwd=tmp_path, check=False)
    assert done.returncode == (2 if words == ["nonsense"] else 1)
    assert silent.returncode > 0
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    if words != ["nonsense"]:
        assert "can't be read or written: No space left on device" in done.stderr


def test_an_error_of_a_disk_is_one_message(tmp_path, monkeypatch, capsys):
    def fail():
        raise PermissionError(13, "Permission denied", "models/digits")

    monkeypatch.setattr(cli, "app", lambda arguments: fail())
    with pytest.raises(SystemExit) as end:
        cli.main([])
    assert end.value.code == 1
    assert capsys.readouterr().err.endswith(
        "Error: models/digits: can't be read or written: Permission denied\n"
        "Check the disk, its free space and its permissions.\n"
    )


def test_shell_completion(tmp_path):
    done = run(
        folder=tmp_path,
        _UMEMMA_COMPLETE="complete_bash",
        COMP_WORDS="umemma fine",
        COMP_CWORD="1",
    )
    assert "finetune-ensemble" in done.stdout


@pytest.mark.slow
def test_openmp_starts_with_what_the_command_line_sets(tmp_path):
    done = run("export", "--model", "nothing", folder=tmp_path, OMP_DISPLAY_ENV="VERBOSE")
    assert f"GOMP_SPINCOUNT = '{cores.SPINS}'" in done.stderr
    assert "not there yet" in done.stderr


def test_importing_umemma_sets_no_environment(tmp_path):
    code = "import os; before = dict(os.environ); import umemma.cli; assert os.environ == before"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)


HOLD = """
import sys
from umemma.cli.options import take_turns

with take_turns("models/digits/ensemble"):
    print("my turn", flush=True)
    sys.stdin.readline()
"""


def start_turn(folder) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("end", ["done", "killed"])
def test_the_second_command_is_told_who_is_at_it_and_waits_for_its_end(tmp_path, end):
    with start_turn(tmp_path) as first, start_turn_after(tmp_path, first) as second:
        said = second.stderr.readline()
        assert f"models/digits/ensemble: process {first.pid} on " in said
        assert "Waiting for its end." in said
        time.sleep(0.3)
        assert select.select([second.stdout], [], [], 0)[0] == []
        if end == "killed":
            first.kill()
        else:
            first.communicate("\n")
        assert second.stdout.readline() == "my turn\n"
        second.communicate("\n")
        assert second.returncode == 0
    assert list((tmp_path / "runs/locks").iterdir()) == []


def start_turn_after(folder, first: subprocess.Popen[str]) -> subprocess.Popen[str]:
    assert first.stdout.readline() == "my turn\n"
    return start_turn(folder)


def test_where_no_lock_can_be_a_command_works_without(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").write_text("a file in its place")
    with take_turns("models/digits/ensemble"):
        pass


def test_ctrl_c_ends_a_command_with_one_message(monkeypatch, capsys):
    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("umemma.stages.inspection.encoders.run", stop)
    with pytest.raises(SystemExit) as end:
        cli.main(["encoders"])
    assert end.value.code == 130
    assert capsys.readouterr().err == (
        "Error: stopped by SIGINT\nRun the same command to resume.\n"
    )
