"""The ``medssl`` command. What a stage needs is imported when it is called: ``--help`` is quick.

A command is data: its name, its sentence and its options. What an option is called here it is
called in the stage's config too.
"""

from __future__ import annotations

import json
import warnings
from inspect import Parameter, Signature
from typing import Annotated, Any

import typer

from medssl import __version__
from medssl.cli import quarantine
from medssl.cli.doctor import doctor
from medssl.cli.options import (
    ARCHIVE,
    CATALOG,
    DATA,
    ENCODER,
    OF_EVERY_STAGE,
    OUT,
    OVERWRITE,
    RESUME,
    RUN,
    TASK,
    WORDS,
)
from medssl.cli.options import flag as _flag
from medssl.cli.options import path as _path
from medssl.cli.options import paths as _paths
from medssl.cli.options import text as _text

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Self-supervised pretraining and few-label fine-tuning on medical archives. "
    "Every stage also takes --config NAME|PATH and key=value words.",
)

app.add_typer(quarantine.app, name="quarantine")


def main() -> None:
    """Entry point of the console script."""
    app(prog_name="medssl")


# What a run found, shown at its end.
_COUNTS = (
    *("records", "patients", "modality", "predicted", "copied", "excluded", "quarantined"),
    *("spacing_mm", "referred", "uncalibrated", "score", "kept", "reasons", "expected", "next"),
)


def _stage(stage: str, about: str, *options: Parameter) -> None:
    """Register a command that runs ``medssl.stages.<stage>``."""

    def command(**given: Any) -> None:
        from medssl.cli.exits import exit_with

        debug, out = given.pop("debug"), given["out"]
        exit_with(lambda: _call(stage, given), out=out, debug=debug)

    lead = [option for option in options if option in (ARCHIVE, CATALOG, RUN)]
    rest = [option for option in options if option not in lead]
    signature = Signature([*lead, WORDS, *rest, *OF_EVERY_STAGE])
    setattr(command, "__signature__", signature)  # noqa: B010 - typer reads the options there
    app.command(stage, help=about)(command)


_stage(
    "index",
    "List what an archive holds: catalog, quarantine ledger, patient-level split.",
    ARCHIVE,
    OUT,
    _flag("pixels", "Decode every record once: duplicates, burned-in text, sectors, stills."),
    _text("gaps", "Missing slices: quarantine, split or resample."),
    _text("tilt", "Tilted gantry: shear or resample."),
    _flag("clip_folders", "Numbered pictures of one size in a folder are frames of a clip."),
)
_stage(
    "plan",
    "Propose options of pretrain for a catalog and this machine, with the reason for each.",
    CATALOG,
    _path("out", "The plan, a .yaml file for pretrain --config.", "-o", "--out"),
    _text("where", "Records to use, e.g. \"modality == 'MR'\"."),
    _text("objective", "Plan for this objective."),
    _text("encoder", "Plan for this encoder."),
    _text("hours", "Longest time of the run; default: 24."),
    OVERWRITE,
)
_stage(
    "pretrain",
    "Pretrain an encoder without labels on a catalog or a folder.",
    DATA,
    _text("objective", "Objective, see `medssl info`."),
    ENCODER,
    OUT,
    _path("init", "Run to start from: its weights alone."),
    _path("continue_from", "Run to go on from, with these data; its steps count."),
    _text("where", "Records to use, e.g. \"modality == 'MR'\"."),
    _flag("allow_test", "Use test patients too."),
    RESUME,
    OVERWRITE,
)
_stage(
    "finetune",
    "Train a head on a few labelled patients.",
    TASK,
    DATA,
    ENCODER,
    _path("labels", "Of videos: label file, table or folder; default: beside them."),
    _path("init", "Pretraining run to start from."),
    OUT,
    RESUME,
    OVERWRITE,
)
_stage(
    "predict",
    "Apply a fine-tuned model to every scan of a folder.",
    _path("input", "Folder of scans.", "-i", "--input"),
    _text("online", "A video that is being recorded: growing file, named pipe, or - for stdin."),
    OUT,
    _paths("checkpoint", "Fine-tuning run; of several, the mean of their probabilities counts."),
    _flag("views", "Take the mean over views of each scan."),
    _text("max_risk", "Refer cases: the others' mean risk on validation was at most this."),
    _text("refer_share", "Instead: refer below this share of validation cases; default: 0.05."),
    _text("format", "nifti, dicom-seg or both; default: NIfTI, and SEG for DICOM scans."),
    _flag("hashed_names", "Name results by record id instead of by the scan's path."),
    RESUME,
    OVERWRITE,
)
_stage(
    "soup",
    "Make one model of fine-tunings that began alike: the mean of their weights.",
    DATA,
    _paths("checkpoint", "Fine-tuning run; give it two times or more."),
    _text("how", "greedy (default): those that help on validation cases; uniform: all."),
    OUT,
    OVERWRITE,
)
_stage(
    "evaluate",
    "Compare predictions with reference labels, or probe a frozen encoder.",
    TASK,
    _path("pred", "Folder that predict wrote."),
    _path("ref", "Folder of reference labels."),
    _text("probe", "Instead: knn, linear, attentive or dense, of the encoder of a run."),
    _path("data", "Probe: labelled data set, as finetune takes it."),
    _path("checkpoint", "Probe: run of pretrain or finetune."),
    OUT,
    OVERWRITE,
)
_stage(
    "embed",
    "One vector per record, with pictures of what lies near what.",
    DATA,
    _path("checkpoint", "Run of pretrain or finetune."),
    _path("out", "The table, a .parquet file; pictures go beside it.", "-o", "--out"),
    _text("where", "Records to use, e.g. \"modality == 'MR'\"."),
    OVERWRITE,
)
_stage(
    "compare",
    "Fine-tune from random and from pretrained weights alike: is pretraining worth it?",
    DATA,
    _paths("init", "Pretraining run, or NAME=WEIGHTS; may be given several times."),
    _text("labels", "Labelled patients to learn from; default: 2,5,10."),
    _text("seeds", "Trainings of each arm; default: 3."),
    OUT,
    _text("task", "segmentation or classification."),
    _flag("allow_test", "Go on where a pretraining has seen test scans: transductive."),
    _flag("equal_compute", "Also train random weights for as long as pretrained ones in all."),
    RESUME,
    OVERWRITE,
)
_stage(
    "report",
    "Write one page on a run that works without a network: health, curves, results, scans.",
    RUN,
    _path("out", "Folder for report.html.", "-o", "--out"),
    _path("data", "Catalog or scans, to show what is drawn of hidden parts."),
    _path("pred", "Folder that predict wrote, to show slices with labels."),
    _paths("metrics", "File that evaluate wrote; may be given several times."),
    _path("embedding", "File that embed wrote."),
    OVERWRITE,
)
_stage(
    "deidentify",
    "Copy scans under the DICOM Basic Profile: reduces the risk that a patient is recognised.",
    _path("input", "Folder of scans.", "-i", "--input"),
    OUT,
    _path("key", "Secret that the pseudonyms come from; default: OUT.key, made if missing."),
    RESUME,
    OVERWRITE,
)
_stage(
    "phantom",
    "Write a synthetic archive: scans, labels and broken files, or videos with what is hidden.",
    _text("kind", "hospital, echo (beating hearts) or surgery (operations)."),
    OUT,
    OVERWRITE,
)
_stage(
    "demo",
    "Run the whole way on a synthetic archive, in a few minutes on a CPU.",
    OUT,
    OVERWRITE,
)


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="The README's table.")] = False,
) -> None:
    """List objectives, encoders, heads and readers."""
    from medssl.stages import info as stage

    if as_json:
        typer.echo(json.dumps(stage.as_dict(), indent=1))
        return
    typer.echo(stage.as_markdown() if as_markdown else stage.as_text(), nl=False)


app.command()(doctor)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


def _call(stage: str, given: dict[str, Any]) -> int:
    import rich

    from medssl.core.config import parse_overrides
    from medssl.core.errors import UsageError
    from medssl.stages import config_class, run_stage

    words, config, quiet = (given.pop(key) for key in ("words", "config", "quiet"))
    # torch's notices to library authors are no news for users.
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch")
    console = rich.get_console()  # the console of every progress bar
    console.stderr, console.quiet = True, quiet
    if quiet and "quiet" in config_class(stage).model_fields:
        given["quiet"] = True
    options = {
        key: value for key, value in given.items() if value is not None and value is not False
    }
    overrides = parse_overrides(words or [])
    twice = sorted(overrides.keys() & options.keys())
    if twice:
        raise UsageError(f"'{twice[0]}' is given twice", fix="give the option or the word")
    run = run_stage(stage, config, {**overrides, **options})
    if not quiet:
        typer.echo(f"results: {run.out}")
        for key in _COUNTS:
            if run.result.get(key):
                typer.echo(f"  {key}: {run.result[key]}")
        for name in run.result.get("outputs", []):
            typer.echo(f"  {run.out / name}")
        if run.exit_code:
            typer.echo(f"some items could not be used: see {run.ledger}")
    return run.exit_code
