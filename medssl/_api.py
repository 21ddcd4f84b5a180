"""The Python surface: the same names and keywords as the command line. Imports nothing heavy.

Every function takes ``config`` (name or path of a YAML file) and any further key of the stage's
config as a keyword; dotted keys go into a dict: ``**{"objective.mask_ratio": 0.6}``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from medssl.core.runlog import Run
    from medssl.core.sample import Sample

    StrPath = str | Path


def read(path: StrPath, frames: Sequence[int] | None = None) -> Sample:
    """One image, volume or clip; its array is loaded on first access.

    Raises:
        ReadError: unreadable file, or a folder with more than one volume (it names them).
    """
    from medssl.readers._read import read as read_one

    return read_one(path, frames=frames)


def read_folder(path: StrPath) -> Iterator[Sample]:
    """Every readable image, volume and clip below a folder; the rest is reported, not raised."""
    from medssl.readers._read import read_folder as read_all

    return read_all(path)


def index(archive: StrPath, *, out: StrPath, config: StrPath | None = None, **more: Any) -> Run:
    """List what an archive holds: catalog, quarantine ledger, patient-level split.

    Raises:
        NothingUsableError: no image, volume or clip found.
    """
    return _run("index", config, {"archive": archive, "out": out, **more})


def plan(catalog: StrPath, *, out: StrPath, config: StrPath | None = None, **more: Any) -> Run:
    """Propose options of :func:`pretrain` for a catalog and this machine, as a YAML file.

    Raises:
        NothingUsableError: no record to learn from.
        ResourceError: memory or disk of this machine are too small.
    """
    return _run("plan", config, {"catalog": catalog, "out": out, **more})


def pretrain(
    *,
    data: StrPath,
    out: StrPath,
    objective: str | None = None,
    encoder: str | None = None,
    config: StrPath | None = None,
    **more: Any,
) -> Run:
    """Pretrain an encoder without labels on a catalog or a folder.

    Raises:
        NothingUsableError: no record that the objective can use.
        InterruptedRunError: SIGINT or SIGTERM; a checkpoint was written.
    """
    values = {"data": data, "out": out, "objective": objective, "encoder": encoder, **more}
    return _run("pretrain", config, values)


def finetune(
    *,
    task: str,
    data: StrPath,
    out: StrPath,
    encoder: str | None = None,
    init: StrPath | None = None,
    config: StrPath | None = None,
    **more: Any,
) -> Run:
    """Train a head on a few labelled patients, from scratch or from a pretraining run.

    Raises:
        MedsslError: label and image do not fit, unknown label value, no labelled case.
        InterruptedRunError: SIGINT or SIGTERM; a checkpoint was written.
    """
    values = {"task": task, "data": data, "out": out, "encoder": encoder, "init": init, **more}
    return _run("finetune", config, values)


def predict(
    input: StrPath | None = None,  # noqa: A002 - the name of the option
    *,
    out: StrPath,
    checkpoint: StrPath | Sequence[StrPath],
    config: StrPath | None = None,
    **more: Any,
) -> Run:
    """Apply a fine-tuned model to every scan of a folder; results lie on the scan's grid.

    ``online`` instead of ``input`` names a video that is still being recorded.

    Raises:
        NothingUsableError: no scan found.
    """
    values = {"input": input, "out": out, "checkpoint": checkpoint, **more}
    return _run("predict", config, values)


def soup(
    *,
    data: StrPath,
    checkpoint: Sequence[StrPath],
    out: StrPath,
    config: StrPath | None = None,
    **more: Any,
) -> Run:
    """Make one model of several fine-tunings from one start: the mean of their weights.

    Raises:
        UsageError: models that did not begin alike, or learned from other cases.
    """
    return _run("soup", config, {"data": data, "checkpoint": checkpoint, "out": out, **more})


def evaluate(
    *,
    out: StrPath,
    task: str | None = None,
    pred: StrPath | None = None,
    ref: StrPath | None = None,
    config: StrPath | None = None,
    **more: Any,
) -> Run:
    """Compare predictions with reference labels; writes ``metrics.json``.

    With ``probe``, ``data`` and ``checkpoint``: what labels read out of a frozen encoder.

    Raises:
        MedsslError: a prediction without reference, or a grid that differs.
    """
    return _run("evaluate", config, {"task": task, "pred": pred, "ref": ref, "out": out, **more})


def report(run: StrPath, *, out: StrPath, config: StrPath | None = None, **more: Any) -> Run:
    """Write one page on a run of pretrain or finetune that works without a network.

    Raises:
        UsageError: no such run, or a file that is not what it should be.
    """
    return _run("report", config, {"run": run, "out": out, **more})


def embed(
    *,
    data: StrPath,
    checkpoint: StrPath,
    out: StrPath,
    config: StrPath | None = None,
    **more: Any,
) -> Run:
    """One vector per record of a catalog or a folder, as a Parquet file with pictures beside it.

    Raises:
        NothingUsableError: no record that the encoder takes.
    """
    values = {"data": data, "checkpoint": checkpoint, "out": out, **more}
    return _run("embed", config, values)


def compare(
    *,
    data: StrPath,
    init: StrPath | Sequence[StrPath],
    out: StrPath,
    config: StrPath | None = None,
    **more: Any,
) -> Run:
    """Fine-tune from random and from pretrained weights alike; says whether pretraining pays.

    Raises:
        UsageError: a pretraining has seen test scans, or labels are missing.
        InterruptedRunError: SIGINT or SIGTERM; go on with ``resume=True``.
    """
    given = [init] if isinstance(init, str | Path) else list(init)
    return _run("compare", config, {"data": data, "init": given, "out": out, **more})


def deidentify(
    input: StrPath,  # noqa: A002 - the name of the option
    *,
    out: StrPath,
    config: StrPath | None = None,
    **more: Any,
) -> Run:
    """Copy scans under the DICOM Basic Profile; reduces the risk that a patient is recognised.

    Raises:
        NothingUsableError: nothing could be copied.
    """
    return _run("deidentify", config, {"input": input, "out": out, **more})


def doctor(
    archive: StrPath, *, out: StrPath | None = None, config: StrPath | None = None, **more: Any
) -> Run:
    """Say what an archive holds and what is wrong with it; the report is ``Run.result``.

    With ``out`` it is also written there, as ``doctor.json`` and as a page, ``doctor.html``.
    """
    return _run("doctor", config, {"archive": archive, "out": out, **more})


def phantom(*, out: StrPath, config: StrPath | None = None, **more: Any) -> Run:
    """Write a synthetic archive with labels and broken files."""
    return _run("phantom", config, {"out": out, **more})


def demo(*, out: StrPath, config: StrPath | None = None, **more: Any) -> Run:
    """Run the whole way on a synthetic archive."""
    return _run("demo", config, {"out": out, **more})


def _run(stage: str, config: StrPath | None, values: dict[str, Any]) -> Run:
    from medssl.stages import run_stage

    return run_stage(stage, config, {k: v for k, v in values.items() if v is not None})
