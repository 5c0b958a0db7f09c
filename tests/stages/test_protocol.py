"""umemma protocol, from the predictions that an evaluation kept."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from toys import reports
from toys.predictions import four_samples

from umemma import cli

PROTOCOL = "missing:\n  audio: {by: group, rates: {}, otherwise: 0.25}\n"


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The name of a file of predictions of four samples; the folder has no params.yaml."""
    monkeypatch.chdir(tmp_path)
    four_samples().save(tmp_path / "kept.parquet", "test")
    return "kept.parquet"


def run(capsys, *arguments):
    with pytest.raises(SystemExit) as exit_:
        cli.main(["protocol", *arguments])
    captured = capsys.readouterr()
    return exit_.value.code, captured.out, captured.err


def test_rates_a_file_and_masks_are_answered_alike(kept, tmp_path, capsys):
    (tmp_path / "p.yaml").write_text("missing:\n  audio: {by: group, rates: {}, otherwise: 0.25}\n")
    same = ("--predictions", kept, "--json")
    status, out, _ = run(capsys, "--ratio", "audio=0.25", "--write-masks", "m.csv", *same)
    assert status == 0
    by_rate = json.loads(out)
    assert by_rate["samples"] == 4
    assert by_rate["lost"] == pytest.approx(0.25 / 4)
    (accuracy,) = [
        row
        for row in by_rate["results"]
        if (row["metric"], row["model"]) == ("accuracy", "ensemble")
    ]
    assert accuracy["value"] == pytest.approx((1 + 1 + 0.75 + 0) / 4)

    status, out, _ = run(capsys, "p.yaml", *same)
    assert status == 0
    assert json.loads(out)["results"] == by_rate["results"]

    (tmp_path / "all.csv").write_text("key,present\n" + "".join(f"{k},image\n" for k in "abcd"))
    status, out, _ = run(capsys, "--masks", "all.csv", *same)
    answer = json.loads(out)
    assert (answer["samples"], answer["refused"]) == (3, 1)
    assert answer["results"][0]["value"] == pytest.approx(2 / 3)
    assert (tmp_path / "m.csv").read_text().startswith("key,present\n")


def test_the_table_fits_a_terminal_and_says_what_is_left_out(kept, tmp_path, capsys):
    (tmp_path / "all.csv").write_text("key,present\n" + "".join(f"{k},image\n" for k in "abcd"))
    status, out, _ = run(capsys, "--masks", "all.csv", "--predictions", kept)
    assert status == 0
    assert "66.7 %" in out
    assert "masks of all.csv" in out
    assert "1 samples are left out" in out
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "no protocol, or more than one"),
        (["p.yaml", "--ratio", "audio=1"], 2, "no protocol, or more than one"),
        (["--ratio", "audio", "--predictions", "kept.parquet"], 2, "not a modality and a number"),
        (["--ratio", "audio=2", "--predictions", "kept.parquet"], 2, "less than or equal to 1"),
        (["p.yaml", "--predictions", "kept.parquet"], 2, "p.yaml: no such file"),
        (["--ratio", "audio=1", "--predictions", "none.parquet"], 1, "no predictions that can be"),
        (["--ratio", "audio=1"], 2, "params.yaml: no such file"),
    ],
)
def test_bad_input_is_one_message(kept, capsys, arguments, status, message):
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (status, "")
    assert message in " ".join(err.split())
    assert err.startswith("Error: ")


def test_ten_thousand_samples_are_answered_at_once_and_without_torch(tmp_path):
    reports.noisy_predictions("abc", 10, 10_000).save(tmp_path / "kept.parquet", "test")
    script = (
        "import sys, time; t = time.perf_counter()\n"
        "from umemma import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "except SystemExit as e: assert e.code == 0\n"
        "assert 'torch' not in sys.modules\n"
        "print(time.process_time(), file=sys.stderr)\n"
    )
    words = ["protocol", "--ratio", "a=0.3", "--ratio", "b=0.1", "--predictions", "kept.parquet"]
    done = subprocess.run(
        [sys.executable, "-c", script, *words], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stderr.splitlines()[-1]) < 6  # processor time; alone on a machine 2 s


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ('{"key": "a", "present": 3}', "unknown modality '3'"),
        ('{"key": "a", "present": ["audio"]}', "the column 'present' is no text"),
        ('{"key": "a", "present": {"audio": 1}}', "the column 'present' is no text"),
        ("key,present,key\na,audio,a", "the column 'key' is there twice"),
        (b"key,present,\xff\na,audio,1", "not readable as .csv"),
    ],
)
def test_a_strange_table_of_masks_is_refused(kept, tmp_path, capsys, lines, reason):
    data = lines if isinstance(lines, bytes) else lines.encode()
    lines_of_all = data
    if data.startswith(b"{"):
        lines_of_all = b"\n".join(data.replace(b'"a"', f'"{k}"'.encode()) for k in "abcd")
    name = "masks.jsonl" if data.startswith(b"{") else "masks.csv"
    (tmp_path / name).write_bytes(lines_of_all)
    status, _, said = run(capsys, "--masks", name, "--predictions", kept)
    assert status in (1, 2)
    assert reason in said
