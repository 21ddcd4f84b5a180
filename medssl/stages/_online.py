"""Phases of a video while it is being recorded, with how long each took to come.

The stream is decoded in a process of its own, frame after frame; one frame per step of the model's
rate passes the encoder, and the network over time looks at the last ones that its result may
depend on: the same numbers as for the whole video, and memory that does not grow. A network that
looks ahead is refused.

``<name>_phases.csv`` gets a row as soon as its phase is known; ``run.json`` says, for all of them:

- ``latency_s``: from the last bytes of a frame to its row, decoding included; median, 95 %, most.
- ``behind_s``: how far rows fell behind the stream's own clock, since the first row; below 0 where
  the stream came faster than it was shown. If it grows, the machine is too slow.
- ``real_time_factor``: seconds of video per second; a live stream gives at most 1.
- ``encoder_fps``: frames per second of the encoder alone.
"""

from __future__ import annotations

import csv
import io
import time
from array import array
from collections import deque
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
import numpy.typing as npt
import rich
import torch
from torch import Tensor, nn

from medssl.archive.tracks import TABLE_ENDING
from medssl.core.clips import FrameScale
from medssl.core.errors import NothingUsableError, ReadError, UsageError
from medssl.core.preprocess import as_channels
from medssl.core.runlog import Run
from medssl.encoders.card import Card
from medssl.evaluation.calibration import temper
from medssl.heads.phase import PhaseModel
from medssl.inference.ribbon import write_ribbon
from medssl.inference.writers import write_label_names
from medssl.readers._video_live import STDIN, LiveFrame, live_frames
from medssl.stages._calibrate import temperature_of
from medssl.stages._predict_video import PHASE_COLUMNS, phase_row
from medssl.stages._video_frames import centre
from medssl.training.signals import StopRequest

if TYPE_CHECKING:
    from medssl.stages.predict import PredictConfig

# The network over time sees multiples of so many frames.
_LENGTHS = 256


def predict_online(config: PredictConfig, model: nn.Module, card: Card, device: str) -> Run:
    """Predict one stream until it ends or is interrupted.

    Raises:
        UsageError: a model of another kind, or one that looks ahead; no such source.
        ReadError: the stream is no video that can be read as it comes.
        NothingUsableError: it ended before its first frame.
    """
    assert config.online is not None
    recogniser = Recogniser(model, card, device)
    if config.online != STDIN and (
        Path(config.online).is_dir() or not Path(config.online).exists()
    ):
        fix = "a file, a named pipe, or - for standard input"
        raise UsageError("the source does not exist", where=config.online, fix=fix)
    run = Run.open("predict", config.out, overwrite=config.overwrite)
    run.save_config(config, {"model": card.weights_sha256, "contract": card.contract.digest})
    write_label_names(run.out / "labels.json", card.labels)
    name = "stream" if config.online == STDIN else Path(config.online).stem
    path = run.out / f"{name}{TABLE_ENDING}"
    contract = card.contract
    stop = StopRequest()
    frames = live_frames(
        config.online,
        fps=contract.fps or 1.0,
        short_side_px=contract.short_side_px,
        patience_s=config.patience_s,
        stopped=lambda: stop.requested,
    )
    clock = Clock()
    with stop, closing(frames), path.open("w", encoding="utf-8") as file:
        seen = _follow(frames, recogniser, clock, file, stop)
    if not len(seen):
        raise NothingUsableError("the stream ended before its first frame")
    write_ribbon(
        path.with_suffix(".png"),
        np.array(clock.time_s),
        np.array(seen),
        tuple(card.labels.values()),
    )
    return run.finish(
        model=card.weights_sha256,
        device=device,
        predicted=len(seen),
        interrupted=stop.requested,
        **clock.report(),
    )


def _follow(
    frames: Generator[LiveFrame, None, None],
    recogniser: Recogniser,
    clock: Clock,
    file: TextIO,
    stop: StopRequest,
) -> array[int]:
    """A row for each frame, at once; returns the phases."""
    seen: array[int] = array("h")
    console = rich.get_console()
    file.write(_line(PHASE_COLUMNS))
    for frame in frames:
        started_s = time.monotonic()
        phase, probability = recogniser(frame.x_CHW)
        row = phase_row(frame.time_s, recogniser.names[phase], probability)
        file.write(_line(row))
        file.flush()
        clock.note(frame, recogniser.encoder_s, started_s)
        console.print(*row, markup=False, highlight=False)
        seen.append(phase)
        if stop.requested:
            break
    return seen


class Recogniser:
    """Frames of one stream in their order -> phase and its probability.

    Attributes:
        encoder_s: that the encoder took for the last frame.
    """

    def __init__(self, model: nn.Module, card: Card, device: str) -> None:
        if not isinstance(model, PhaseModel):
            what = "online prediction is of phases; this model gives something else"
            raise UsageError(what, fix="a run of `medssl finetune --task phase`")
        if model.temporal.future:
            what = "this network looks ahead: it needs the whole video"
            raise UsageError(what, fix="predict -i VIDEO, or train with temporal.network=tcn")
        self.model, self.card, self.device = model, card, torch.device(device)
        self.names = tuple(card.labels.values())
        self.kept: deque[Tensor] = deque(maxlen=model.temporal.past + 1)
        self.encoder_s = 0.0
        rule = card.contract.picture_rule(card.modality, np.dtype(np.uint8))
        if rule.kind == "percentile":
            what = "the model scales a video by the grey levels of all its frames"
            raise UsageError(what, fix="predict -i VIDEO")
        empty = np.zeros((card.in_channels, 0, 1, 1), dtype=np.uint8)
        self.scale = FrameScale.of(empty, rule, np.uint8)

    @torch.inference_mode()
    def __call__(self, x_CHW: npt.NDArray[np.uint8]) -> tuple[int, float]:
        """Phase and probability of the newest frame."""
        started_s = time.monotonic()
        self.kept.append(self.model.features(self._input(x_CHW).to(self.device))[0])
        self.encoder_s = time.monotonic() - started_s
        kept_TD = torch.stack(tuple(self.kept))
        # Filled up behind the newest frame, which a causal network does not see: libraries keep
        # memory for every length that they meet.
        filled_TD = nn.functional.pad(kept_TD, (0, 0, 0, -len(kept_TD) % _LENGTHS))
        raw_K = self.model.probabilities(filled_TD)[len(kept_TD) - 1].double().cpu().numpy()
        p_K = temper(raw_K, temperature_of(self.card))
        phase = int(p_K.argmax())
        return phase, float(p_K[phase])

    def _input(self, x_CHW: npt.NDArray[np.uint8]) -> Tensor:
        x = as_channels(x_CHW.astype(np.float32), self.card.contract.picture_channels)
        if len(x) != self.card.in_channels:
            what = f"{len(x)} channels, the model needs {self.card.in_channels}"
            raise ReadError("channel_mismatch", what)
        scaled = self.scale(np.rint(x))[:, None]
        fill = (0.0,) * len(x)
        return torch.from_numpy(centre(scaled, self.card.patch_size, fill)).transpose(0, 1)


class Clock:
    """When frames came and when their rows were written."""

    def __init__(self) -> None:
        self.time_s, self.latency_s, self.behind_s = array("d"), array("d"), array("d")
        self.encoder_s = 0.0
        self.first_s = 0.0
        self.last: LiveFrame | None = None

    def note(self, frame: LiveFrame, encoder_s: float, started_s: float) -> None:
        """The row of a frame was written just now."""
        now_s = time.monotonic()
        if self.last is None:
            self.first_s = started_s
        self.time_s.append(frame.time_s)
        self.latency_s.append(now_s - frame.received_s)
        self.behind_s.append(now_s - self.first_s - frame.time_s)
        self.encoder_s += encoder_s
        self.last = frame

    def report(self) -> dict[str, Any]:
        """For ``run.json``."""
        assert self.last is not None  # a stream without a frame is refused
        latency, behind = np.array(self.latency_s), np.array(self.behind_s)
        wall_s = self.behind_s[-1] + self.time_s[-1]
        return {
            "latency_s": {
                "median": round(float(np.median(latency)), 4),
                "p95": round(float(np.percentile(latency, 95)), 4),
                "most": round(float(latency.max()), 4),
            },
            "behind_s": {"first": round(behind[0], 4), "last": round(behind[-1], 4)},
            "video_s": round(self.time_s[-1], 3),
            "real_time_factor": round(self.time_s[-1] / wall_s, 3) if wall_s else None,
            "encoder_fps": round(len(latency) / self.encoder_s, 2),
            "decoded_frames": self.last.decoded,
            "damaged_frames": self.last.damaged,
        }


def _line(row: tuple[str, ...]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()
