"""The commands that use what is there: predict, export, encoders."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from umemma.cli.options import (
    PARAMS,
    AsJson,
    Broken,
    ModelFolder,
    ParamsFile,
    Sets,
    Trust,
    start_with_model,
)
from umemma.errors import UserError

if TYPE_CHECKING:
    from umemma.models.answers import AnyPrediction
    from umemma.models.explanation import Explanation


MODALITIES = ("audio", "image", "spectrogram", "text", "video")

Audio = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="The sound: an audio file, or a video with sound.",
        show_default=False,
    ),
]
Image = Annotated[
    str,
    typer.Option(metavar="FILE", help="The image.", show_default=False),
]
Spectrogram = Annotated[
    str,
    typer.Option(metavar="FILE", help="A spectrogram, as an image.", show_default=False),
]
Text = Annotated[
    str,
    typer.Option(
        metavar="WORDS",
        help="The text itself; with --text-files the path of a file.",
        show_default=False,
    ),
]
Video = Annotated[
    str,
    typer.Option(metavar="FILE", help="The video.", show_default=False),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="MODALITY=FILE",
        help="The medium of a modality, by its name: --input front=a.png. Repeatable.",
    ),
]
Manifest = Annotated[
    str,
    typer.Option(
        metavar="TABLE",
        help="Predict a table of samples instead: .csv, .tsv, .parquet or .jsonl.",
        show_default=False,
    ),
]
PredictionsFile = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="The file for the predictions of a table: .parquet, .csv or .jsonl.",
        show_default=False,
    ),
]
Columns = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODALITY=COLUMN",
        help=(
            "The column of a modality, key=COLUMN, or SERIES.rate=COLUMN in Hz. Repeatable. By "
            "default they are named as the modalities are, or as params.yaml names them."
        ),
    ),
]
TextFiles = Annotated[
    bool,
    typer.Option("--text-files", help="Texts are paths of UTF-8 files."),
]
Top = Annotated[
    int,
    typer.Option(min=1, help="How many classes to show."),
]
Explain = Annotated[
    bool,
    typer.Option("--explain", help="Say what each modality of the sample adds to the answer."),
]
BatchSize = Annotated[
    int,
    typer.Option(min=1, help="How many samples of a table to predict at a time."),
]
DecodingWorkers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Processes that decode the media of a table. By default chosen automatically.",
    ),
]


def predict(
    audio: Audio = "",
    image: Image = "",
    spectrogram: Spectrogram = "",
    text: Text = "",
    video: Video = "",
    inputs: Inputs = None,
    manifest: Manifest = "",
    out: PredictionsFile = "",
    columns: Columns = None,
    text_files: TextFiles = False,
    top: Top = 5,
    explain: Explain = False,
    batch_size: BatchSize = 64,
    workers: DecodingWorkers = None,
    broken: Broken = "absent",
    model: ModelFolder = "",
    trust: Trust = False,
    as_json: AsJson = False,
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Predict the class of a sample, or of each sample of a table, from the modalities that it has.

    A medium that cannot be read counts as absent. The command warns about it, or writes the reason
    into the table. A row without a prediction says why. Paths are relative to the table.

    --explain adds what each modality of one sample contributes: its Shapley value over all subsets.

    Exit status 1 where no row of the table has a prediction.

    Creates: with --manifest the file --out: key, label, probability, probabilities, present,
    reason; in regression value, deviation, low and high of each target.
    """
    folder = start_with_model("predict", model, params, set_)
    values = (audio, image, spectrogram, text, video)
    media = {name: value for name, value in zip(MODALITIES, values, strict=True) if value}
    named = _parse_inputs(inputs or [])
    _check_sources(manifest, out, {**media, **named}, explain)
    from umemma.stages import predict as stage

    if not manifest:
        prediction = stage.run(folder, media, text_files, trust, broken, named, explain)
        if as_json:
            print(stage.as_json(prediction))
        else:
            _print_prediction(prediction, top)
        return
    counts = stage.run_table(
        folder,
        Path(manifest),
        Path(out),
        columns or [],
        text_files,
        workers,
        batch_size,
        trust,
        broken,
        _read_options(model, params, set_),
    )
    if as_json:
        print(stage.as_json(counts))
    else:
        print(f"{out}: {counts}")
    if not counts.answered:
        sys.exit(1)


def _read_options(model: str, params: Path, set_: list[str] | None) -> Mapping[str, object]:
    """Return the options of the dataset where the model is that of the settings, else {}."""
    from umemma import config

    if model:
        return {}
    settings = config.load_params(params, set_ or [])
    if settings.dataset != "manifest":
        return {}
    return settings.preprocess.options


def _parse_inputs(inputs: list[str]) -> dict[str, str]:
    """Return {modality: value} of "modality=value"."""
    named: dict[str, str] = {}
    for text in inputs:
        modality, equals, value = text.partition("=")
        if not equals or not modality or not value or modality in named:
            raise UserError(
                f"can't read {text!r}",
                "--input",
                "Write each modality once, as --input front=a.png.",
                usage=True,
            )
        named[modality] = value
    return named


def _check_sources(manifest: str, out: str, media: Mapping[str, str], explain: bool) -> None:
    """Raise UserError unless the options name either a table and its output, or one sample."""
    if bool(manifest) != bool(out) or (manifest and (media or explain)):
        raise UserError(
            "these options cannot be combined",
            "umemma predict",
            "Use --manifest TABLE --out FILE, or name one sample, such as --image FILE.",
            usage=True,
        )


def _print_prediction(result: AnyPrediction | Explanation, top: int) -> None:
    from umemma.models.explanation import Explanation
    from umemma.stages import predict as stage
    from umemma.system.log import output

    if not isinstance(result, Explanation):
        output.print(stage.make_class_table(result, top), highlight=False)
        return
    output.print(stage.make_class_table(result.prediction, top), highlight=False)
    output.print(stage.make_contribution_table(result, top), highlight=False)


def export(
    out: Annotated[
        str,
        typer.Option(
            metavar="FOLDER",
            help="The folder for the ONNX models. By default onnx/ beside the model.",
            show_default=False,
        ),
    ] = "",
    model: ModelFolder = "",
    trust: Trust = False,
    params: ParamsFile = PARAMS,
    set_: Sets = None,
) -> None:
    """Write a trained model as ONNX, and check it against PyTorch for every subset of modalities.

    Creates: models/<dataset>/onnx/ encoder-<modality>.onnx, fusion.onnx and export.json, which
    describes their inputs.
    """
    from umemma.models.hub import is_on_hub

    if is_on_hub(model) and not out:
        hint = "Add --out FOLDER."
        raise UserError("a model of the hub has no folder beside it", "--model", hint, usage=True)
    folder = start_with_model("export", model, params, set_)
    from umemma.stages import export as stage

    target = folder.parent / "onnx"
    if out:
        target = Path(out)
    print(f"ONNX models are in {target}, {stage.run(folder, target, trust)}")


def list_encoders(
    pattern: Annotated[
        str,
        typer.Argument(help='The names to show, such as "timm:resnet*".', show_default=False),
    ] = "",
    modality: Annotated[
        str,
        typer.Option(help="Show only encoders for this modality.", show_default=False),
    ] = "",
) -> None:
    """List the encoders: their input, their feature width and which weights are available."""
    from umemma.stages.inspection import encoders as stage

    stage.run(pattern, modality)
