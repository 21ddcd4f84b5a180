"""``medssl predict`` on videos: phases with a ribbon, or tools, of each frame at the model's rate.

``<name>_phases.csv`` has a row per frame: ``time_s``, ``phase`` and its ``probability``;
``<name>_phases.png`` shows them along time. ``<name>_tools.csv`` has a probability per tool.
Videos are decoded in pieces: six hours take no more memory than one.

T frames, K phases or tools.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from medssl.archive.clips import ClipStream
from medssl.archive.tracks import TABLE_ENDING, TOOLS_ENDING
from medssl.core.errors import ReadError
from medssl.core.geometry import Kind
from medssl.evaluation.calibration import temper, temper_chance
from medssl.heads.phase import PhaseModel
from medssl.inference.ensemble import View
from medssl.inference.ribbon import write_ribbon
from medssl.inference.writers import write_table
from medssl.stages._calibrate import sureness, temperature_of
from medssl.stages._cases import Case
from medssl.stages._clip_windows import planned
from medssl.stages._predict_session import Session
from medssl.stages._video_frames import centre, features

PHASE_COLUMNS = ("time_s", "phase", "probability")


class VideoSession(Session):
    """Frames of each video at the rate of the model."""

    ending: str

    @property
    def kinds(self) -> tuple[Kind, ...]:
        return ("clip",)

    def begin(self) -> None:
        """No table of all cases."""

    def begin_tables(self, kept: Collection[str]) -> None:
        """No table of all cases."""

    def result_of(self, case: Case) -> str:
        return f"{case.name}{self.ending}"

    def is_complete(self, case: Case) -> bool:
        return (self.out / self.result_of(case)).is_file()

    def frames(self, case: Case) -> tuple[npt.NDArray[np.float64], Iterator[torch.Tensor]]:
        """Times of a video's frames, and the frames as the model takes them, some at a time.

        Raises:
            ReadError: it cannot be read; the iterator raises it too.
        """
        [found] = case.channels
        clip, plan = planned(found, self.card)
        if plan.times_s is None:
            raise ReadError("times_unknown", "the video does not say when its frames were shown")
        return plan.times_s, self._pieces(ClipStream(clip, plan))

    def _pieces(self, stream: ClipStream) -> Iterator[torch.Tensor]:
        scale = 255 if stream.dtype == np.uint8 else 1
        fill = (0.0,) * stream.shape[0]
        count = self.window.batch_windows
        for piece in stream.pieces(1):
            for first in range(0, piece.shape[1], count):  # a piece as float32 would be large
                few = piece[:, first : first + count].astype(np.float32) / np.float32(scale)
                yield torch.from_numpy(centre(few, self.card.patch_size, fill)).transpose(0, 1)

    def path_of(self, case: Case) -> Path:
        """Where the table of a case goes; its folder is there."""
        path = self.out / self.result_of(case)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


class PhaseSession(VideoSession):
    """A phase per frame."""

    ending = TABLE_ENDING

    def write(self, case: Case) -> None:
        each = []
        for model, card in zip(self.members.models, self.members.cards, strict=True):
            assert isinstance(model, PhaseModel)
            for view in self.members.views:
                times_s, p_TK = self._probabilities(case, model, view)
                each.append(temper(p_TK.astype(np.float64), temperature_of(card)))
        p_TK = np.mean(each, axis=0)
        phase_T, names = p_TK.argmax(1), tuple(self.card.labels.values())
        self.quality.add(case.record_id, float(p_TK.max(1).mean()))
        path = self.path_of(case)
        write_ribbon(path.with_suffix(".png"), times_s, phase_T, names)
        rows = zip(times_s, phase_T, p_TK.max(1), strict=True)
        write_table(path, [PHASE_COLUMNS, *(phase_row(t, names[k], p) for t, k, p in rows)])

    @torch.inference_mode()
    def _probabilities(
        self, case: Case, model: PhaseModel, view: View
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        times_s, frames = self.frames(case)
        device = torch.device(self.window.device)
        shown = (view.of(x) for x in frames)
        seen_TD = torch.from_numpy(features(model.encoder, shown, device))
        return times_s, model.probabilities(seen_TD.to(device)).cpu().numpy()


class ToolSession(VideoSession):
    """A probability per frame and tool."""

    ending = TOOLS_ENDING

    def write(self, case: Case) -> None:
        times_s, frames = self.frames(case)
        with torch.inference_mode():
            found = [self.model(x.to(self.window.device)).sigmoid().cpu() for x in frames]
        p_TK = temper_chance(torch.cat(found).double().numpy(), temperature_of(self.card))
        self.quality.add(case.record_id, sureness(p_TK))
        header = ("time_s", *self.card.labels.values())
        rows = zip(times_s, p_TK, strict=True)
        table = [(f"{t:.3f}", *(f"{p:.4f}" for p in p_K)) for t, p_K in rows]
        write_table(self.path_of(case), [header, *table])


def phase_row(time_s: float, phase: str, probability: float) -> tuple[str, str, str]:
    """One row of ``<name>_phases.csv``."""
    return f"{time_s:.3f}", phase, f"{probability:.4f}"
