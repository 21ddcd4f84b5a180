"""Apply a fine-tuned model to every scan of a folder.

For each scan, below ``out`` and under the scan's own relative path (a DICOM series: its folder
and series number): ``<name>_seg.nii.gz`` on the scan's grid, ``<name>_seg.dcm`` (a DICOM SEG, for
the archive the scan came from) and ``<name>_preview.png``. For each picture, with an image
encoder: ``<name>_seg.png``, grey levels are label values as in the masks of the training, of the
picture's own size, and the preview. An image encoder takes volumes slice by slice. Besides:
``labels.json`` (label names), ``volumes.csv`` (mm³ per scan and label), ``areas.csv`` (pixels per
picture and label, and mm² where pixels have a size), ``run.json``,
``quarantine.jsonl`` (what could not be predicted and why) and ``paths.parquet`` (mode 0600: which
file a record id stands for). All but the last, the names of the results and the DICOM SEG, which
names the patient as its scan does, hold ids only.

``quality.csv`` says how sure the model is of each record, and whether to refer it to a person
(docs/calibration.md).

With a classification model there is one result: ``classes.csv``, a row per record id with the
predicted class and the probability of each class (mean over windows that cover the whole record,
see :func:`medssl.inference.sliding.predict_probabilities`).

With a phase or tool model videos are read: ``<name>_phases.csv`` and ``<name>_phases.png``, or
``<name>_tools.csv``, see :mod:`medssl.stages._predict_video`; with ``online`` one video while it is
being recorded, see :mod:`medssl.stages._online`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import rich
from pydantic import BeforeValidator, Field
from rich.progress import Progress
from torch import nn

from medssl.core.config import Config
from medssl.core.errors import UsageError
from medssl.core.registry import HEADS
from medssl.core.runlog import Run
from medssl.encoders.card import Card, load_card
from medssl.stages._online import predict_online
from medssl.stages._predict_case import Format
from medssl.stages._predict_classes import ClassSession
from medssl.stages._predict_masks import MaskSession
from medssl.stages._predict_members import load_members
from medssl.stages._predict_segments import SegmentationSession
from medssl.stages._predict_session import Session
from medssl.stages._predict_setup import as_tuple, device_of, refuse_overlap
from medssl.stages._predict_video import PhaseSession, ToolSession

_SESSIONS: dict[str, type[Session]] = {
    "segmentation": SegmentationSession,
    "classification": ClassSession,
    "phase": PhaseSession,
    "tools": ToolSession,
}


class PredictConfig(Config):
    """What to predict, with what."""

    input: Path | None = None
    """Folder of scans, or one file."""
    online: str | None = None
    """Instead of ``input``: a video that is still being written, a named pipe, or ``-`` for
    standard input."""
    out: Path
    checkpoint: Annotated[tuple[Path, ...], BeforeValidator(as_tuple), Field(min_length=1)]
    """Run folder of finetune; of several, the mean of their probabilities counts."""
    views: bool = False
    """Take the mean over views: two contrasts, and mirror images where training had them and no
    label has a side."""
    overlap: float = Field(default=0.5, ge=0.0, lt=1.0)
    """Shared fraction of neighbouring windows."""
    batch_windows: int = Field(default=4, ge=1)
    """Windows per forward pass; lower it when memory runs out."""
    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:1``; ``auto`` takes a GPU where there is one."""
    format: Format | None = None
    """``nifti``, ``dicom-seg`` or ``both``; default: NIfTI, plus DICOM SEG for DICOM scans."""
    patience_s: float = Field(default=10.0, gt=0)
    """Online: a file that has not grown for so long is at its end."""
    max_risk: float | None = Field(default=None, gt=0, lt=1)
    """Refer cases of so low a quality that the mean risk of the others, 1 - Dice or the share
    wrong, was at most this on the validation cases."""
    refer_share: float | None = Field(default=None, ge=0, lt=1)
    """Instead: refer what is below the quality of this share of the validation cases; 0.05 where
    neither is given."""
    probabilities: bool = False
    """Segmentations: write class probabilities too, ``<name>_prob.npz``, for evaluate."""
    hashed_names: bool = False
    """Name results by record id instead of by the scan's path."""
    resume: bool = False
    overwrite: bool = False


def run(config: PredictConfig) -> Run:
    """Predict every scan below ``config.input``; one bad scan does not stop the rest.

    Raises:
        UsageError: folders that overlap, no model, output in use.
        NothingUsableError: no scan could be predicted.
        ResourceError: disk full, or every scan ran out of memory.
    """
    if (config.input is None) == (config.online is None):
        raise UsageError("predict needs one of input and online", fix="medssl predict -i FOLDER")
    refuse_overlap(config)
    device = device_of(config.device)
    members = load_members(
        config.checkpoint, lambda path: load_model(path, device), views=config.views
    )
    card = members.cards[0]
    session_of = MaskSession if card.videos else _SESSIONS[card.head or ""]
    if session_of is not SegmentationSession and config.format is not None:
        what = "format is for label maps; this model gives none"
        raise UsageError(what, fix="leave it out: a table is written")
    if config.online is not None:
        if not members.single:
            what = "online prediction is of one model, on frames as they are"
            raise UsageError(what, fix="give one checkpoint, without views")
        return predict_online(config, *members.together(), device)
    finished = Run.open("predict", config.out, resume=config.resume, overwrite=config.overwrite)
    session = session_of(finished, config, members, device)
    with Progress(transient=True, disable=not rich.get_console().is_terminal) as progress:
        session.find(progress)
        for case in progress.track(session.todo(), description="predict"):
            session.predict(case)
    return session.finish()


def load_model(run: Path, device: str) -> tuple[nn.Module, Card]:
    """The model of a finetune run, in eval mode, and its card.

    Raises:
        UsageError: the run holds no head.
    """
    # One without a head is refused by name, with what to give instead.
    module, _ = HEADS.module(load_card(run)[0].head or "segmentation")
    loaded: tuple[nn.Module, Card] = module.load_model(run, device)
    return loaded
