"""``medssl predict`` on videos with a segmentation model of frames.

``<name>/<frame>.png`` is the mask of a frame, by its number in the file and on its pixels, for each
that the model's rate keeps; ``<name>_areas.csv`` says how large each label is over time, in
mm² too where the video says how large its pixels are. It is written last. Videos are decoded in
pieces: six hours take no more memory than one.

T frames, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from medssl.archive.clips import ClipPlan, ClipStream
from medssl.core.preprocess import resize_linear
from medssl.inference.sliding import predict_scores
from medssl.inference.writers import areas, write_mask, write_table
from medssl.stages._calibrate import quality_of
from medssl.stages._cases import Case
from medssl.stages._clip_windows import planned
from medssl.stages._predict_session import foreground
from medssl.stages._predict_video import VideoSession

AREAS_ENDING = "_areas.csv"
AREA_COLUMNS = ("frame", "time_s", "label", "name", "area_px", "area_mm2")
# Digits of a frame's number: 11 hours at 25 frames per second.
_DIGITS = 6


class MaskSession(VideoSession):
    """A mask per frame."""

    ending = AREAS_ENDING

    @property
    def measured(self) -> tuple[str, ...]:
        return foreground(self.card)

    def write(self, case: Case) -> None:
        [found] = case.channels
        clip, plan = planned(found, self.card)
        folder = self.out / case.name
        folder.mkdir(parents=True, exist_ok=True)
        shape_HW, spacing_mm = found.shape[2:], clip.geometry.spacing_mm
        rows: list[tuple[object, ...]] = [AREA_COLUMNS]
        dice_TK = []
        for place, scores_Khw in enumerate(self._scores(ClipStream(clip, plan))):
            labels_HW = self._on_frame(scores_Khw, plan, shape_HW)
            dice_TK.append(quality_of(scores_Khw[:, None], self.card))
            number = int(plan.numbers[place])
            write_mask(folder / mask_name(number), labels_HW)
            time_s = "" if plan.times_s is None else f"{plan.times_s[place]:.3f}"
            for k, (px, mm2) in areas(labels_HW, spacing_mm, self.card.labels).items():
                shown = "" if mm2 is None else round(mm2, 3)
                rows.append((number, time_s, k, self.card.labels[k], px, shown))
        dice_K = np.mean(dice_TK, axis=0)
        self.quality.add(case.record_id, dice_K.mean(), dice_K.tolist())
        write_table(self.path_of(case), rows)

    def _scores(self, stream: ClipStream) -> Iterator[npt.NDArray[np.float32]]:
        """Class probabilities (K, h, w) of each prepared frame."""
        scale = np.float32(255 if stream.dtype == np.uint8 else 1)
        for piece in stream.pieces(1):
            for first in range(0, piece.shape[1], self.window.batch_windows):
                few = piece[:, first : first + self.window.batch_windows]
                yield from np.moveaxis(
                    predict_scores(
                        self.model,
                        np.divide(few, scale, dtype=np.float32),
                        patch_size=self.card.patch_size,
                        overlap=self.window.overlap,
                        batch_windows=self.window.batch_windows,
                        device=self.window.device,
                        fill=(0.0,) * len(few),
                    ),
                    1,
                    0,
                )

    def _on_frame(
        self, scores_Khw: npt.NDArray[np.float32], plan: ClipPlan, shape_HW: tuple[int, ...]
    ) -> npt.NDArray[np.uint8]:
        """Labels on the pixels of the file; what the contract cuts off is background."""
        top, bottom, left, right = plan.box
        size = (1, bottom - top, right - left)
        scores_KHW = np.stack([resize_linear(x_hw[None], size)[0] for x_hw in scores_Khw])
        values = np.array(sorted(self.card.labels), dtype=np.uint8)
        labels_HW = np.zeros(shape_HW, dtype=np.uint8)
        labels_HW[top:bottom, left:right] = values[scores_KHW.argmax(0)]
        return labels_HW


def mask_name(frame: int) -> str:
    """File of a frame's mask.

    >>> mask_name(7)
    '000007.png'
    """
    return f"{frame:0{_DIGITS}d}.png"
