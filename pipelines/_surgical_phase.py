"""The label curve on videos: phases of operations, from encoders that saw other images first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import medssl
from medssl.core.clips import kept_frames
from medssl.stages._compare_job import Job
from pipelines._objective_arms import Arms, Backbone

OBJECTIVE, PICTURES = "moco", "polyps"
ENCODER = {"name": "timm/resnet10t", "output_stride": 16}
PRETRAIN = {"channels": 3, "size_px": 48, "lr": 1.0e-3, "precision": "32-true"}
METHOD = (
    "**Phantoms only**: drawn instruments on drawn tissue. No video with phase labels and an open "
    "licence is at hand, so this table says nothing of real operations. Written by `python -m "
    "pipelines.surgical_phase`; medssl {version}. {train} videos to train on; {n} test videos of "
    "about a minute, by which nothing was chosen: the encoder and its input were chosen by the "
    "validation videos, the objective by the literature, and the last checkpoint counts. "
    "`{objective}` has seen frames of all training videos (one per second) without labels, "
    "`{objective}@{pictures}` colonoscopy pictures, {samples:,} samples each, with the shipped "
    "options but for the teacher's momentum (0.97). Every arm then learns from the same labelled "
    "videos (12.5, 25 and 100 % of them) for the same number of steps, "
    "`configs/finetune/surgical_phase.yaml`. Means over test videos at one frame per second, "
    "plain variant ([phases](../phases.md)), seeds {seeds}. 95 % intervals: videos drawn "
    "10,000 times, Student's t over seeds; differences are paired by seed and video. Rows whose "
    "runs are not all there are left out."
)


@dataclass(frozen=True)
class PhaseArms(Arms):
    """The experiment; ``data`` holds ``videos`` with their splits, and ``labels``."""

    def labelled(self, labels: int, seed: int) -> Path:  # noqa: ARG002
        """Nothing to write: a fine-tuning draws its videos itself, by seed."""
        return self.data

    def labels_of(self, job: Job) -> dict[str, Any]:
        videos, labels = (self.data / part for part in ("videos", "labels"))
        return {"task": self.task, "data": videos, "labels": labels, "labelled": job.labels}

    def tested(self) -> tuple[Path, Path]:
        return self.out / "test" / "videos", self.out / "test" / "labels"


def arms_of(
    out: Path, data: Path, tested: Sequence[str], *, smoke: bool, pictures: bool
) -> PhaseArms:
    """The arms: random weights, pretrained on frames, and on pictures where there are any."""
    objectives = (OBJECTIVE, f"{OBJECTIVE}@{PICTURES}") if pictures else (OBJECTIVE,)
    return PhaseArms(
        out=out,
        data=data,
        pretrain="",
        finetune="surgical_phase",
        pool={},
        groups={name: name for name in tested},
        pretrain_overrides=PRETRAIN,
        task="phase",
        measures={"f1": "F1", "jaccard": "Jaccard", "accuracy": "accuracy"},
        backbones={"resnet10t": Backbone(ENCODER, (48, 64), {}, objectives)},
        samples=4_800,
        batch_size=32,
        smoke=smoke,
    )


def operations(folder: Path, videos: int) -> Path:
    """Phantom operations, five eighths to train on, one to choose by and two to test on."""
    if not (folder / "run.json").is_file():
        medssl.phantom(out=folder, kind="surgery", patients=videos, overwrite=True)
    return folder


def write_frames(videos: Path, folder: Path) -> Path:
    """A frame per second of all videos as pictures, one folder per video.

    A picture is a record: frames of one video are then negatives of each other, as in SelfSupSurg.
    """
    for path in sorted(videos.iterdir()):
        if (folder / path.stem).is_dir():
            continue
        clip = medssl.read(path)
        numbers = kept_frames(clip.geometry.frame_times_s, clip.shape[1], 1.0).tolist()
        part = folder / f".{path.stem}"
        part.mkdir(parents=True, exist_ok=True)
        for number, x_CHW in zip(numbers, clip.frames(numbers).transpose(1, 0, 2, 3), strict=True):
            picture = np.ascontiguousarray(x_CHW.transpose(1, 2, 0))
            Image.fromarray(picture).save(part / f"{number:06d}.png")
        part.rename(folder / path.stem)
    return folder


def link_tested(data: Path, out: Path, names: Iterable[str]) -> None:
    """Links to these test videos and their labels."""
    for name in names:
        for part, file in (
            ("videos", data / "videos" / "test" / f"{name}.mp4"),
            ("labels", data / "labels" / f"{name}-phase.txt"),
        ):
            link = out / part / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to(file.resolve())
