"""Operations on video: phases in their order, with tools that come and go.

Each phase has its tools and its way of moving them; some phases share their tools and differ in
motion only, and any tool may be out of view. Lengths vary, phases are skipped, and some are gone
back to. What differs from video to video and says nothing of the phase: colour and texture of the
tissue, light, zoom, the shake of the camera, the look of the instruments.

There are two procedures, for studies of transfer: seven phases with the names of Cholec80's, and
six of a resection on paler tissue, seen from nearer, with other tools in its phases. Fast small
strokes dissect, wide slow ones clear and rinse in both; no phase of one is a phase of the other.

Files lie as those of Cholec80: a line per frame in ``video01-phase.txt``, a line per 25th frame in
``video01-tool.txt``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from medssl.archive._phantom_tools import PALE, RED, TOOLS, Tissue, draw_look, paint, paint_bag
from medssl.archive._phantom_video import write_video
from medssl.core.phases import CHOLEC80
from medssl.core.seeding import generator

SHAPE_HW = (96, 128)
FPS = 25
TOOL_EVERY = 25
# Frames a tool stays in or out of view for, at least, and on average.
_STAY, _STAYS = 12, 60

Picture = npt.NDArray[np.float32]


class Motion(NamedTuple):
    """How the tip of a phase's tools moves: pixels, and turns per second, down and across."""

    reach_hw_px: tuple[float, float]
    rate_hw_hz: tuple[float, float]


class Phase(NamedTuple):
    """Mean length in units of ``seconds``; tools with the share of time that they are in view."""

    length: float
    tools: dict[str, float]
    motion: Motion


class Procedure(NamedTuple):
    """Phases in order, their names, and the chance that one is left out or gone back to.

    ``back``: phase -> the one before that is gone back to from it, and the chance.
    """

    plan: tuple[Phase, ...]
    names: tuple[str, ...]
    skipped: dict[int, float]
    back: dict[int, tuple[int, float]]
    tissue: Tissue = RED


_STILL = Motion((2, 2), (0.2, 0.3))
_PLAN = (
    Phase(0.6, {"Grasper": 0.7}, _STILL),
    Phase(1.4, {"Grasper": 0.8, "Hook": 0.8}, Motion((3, 4), (2.2, 1.7))),
    Phase(0.7, {"Grasper": 0.6, "Clipper": 0.5, "Scissors": 0.5}, Motion((1, 10), (0.1, 0.4))),
    Phase(1.6, {"Grasper": 0.8, "Hook": 0.8}, Motion((6, 22), (0.3, 0.5))),
    Phase(0.6, {"Grasper": 0.7, "SpecimenBag": 0.8}, Motion((12, 4), (0.5, 0.2))),
    Phase(0.9, {"Irrigator": 0.7, "Bipolar": 0.6, "Grasper": 0.5}, Motion((10, 10), (0.6, 0.6))),
    Phase(0.5, {"Grasper": 0.8, "SpecimenBag": 0.7}, Motion((20, 3), (0.15, 0.1))),
)
_OTHER_PLAN = (
    Phase(0.6, {"Irrigator": 0.5, "Grasper": 0.6}, Motion((4, 14), (0.2, 0.2))),
    Phase(1.4, {"Scissors": 0.8, "Grasper": 0.7}, Motion((4, 3), (1.8, 2.1))),
    Phase(0.8, {"Bipolar": 0.8, "Clipper": 0.5}, Motion((2, 2), (0.3, 0.2))),
    Phase(1.5, {"Scissors": 0.8, "Grasper": 0.7}, Motion((16, 8), (0.5, 0.3))),
    Phase(0.6, {"SpecimenBag": 0.8, "Bipolar": 0.4}, Motion((18, 4), (0.2, 0.1))),
    Phase(0.8, {"Irrigator": 0.7, "Clipper": 0.5}, Motion((9, 12), (0.6, 0.5))),
)
_OTHER_NAMES = (
    "Exploration", "Mobilisation", "VesselSealing", "Resection", "SpecimenRemoval", "Closure",
)  # fmt: skip
PROCEDURES = {
    "first": Procedure(
        _PLAN, CHOLEC80, {0: 0.1, 4: 0.1, 5: 0.2, 6: 0.15}, {2: (1, 0.2), 5: (3, 0.25)}
    ),
    "second": Procedure(
        _OTHER_PLAN, _OTHER_NAMES, {0: 0.15, 4: 0.2}, {2: (1, 0.3), 3: (2, 0.2)}, PALE
    ),
}
FIRST = PROCEDURES["first"]


@dataclass(frozen=True)
class Operation:
    """What happens in one video; N segments, T frames, K tools.

    Attributes:
        phase_T: number of the phase of each frame.
        tools_TK: which tools are in view, in the order of ``TOOLS``.
        procedure: whose phases they are.
    """

    phase_T: npt.NDArray[np.int64]
    tools_TK: npt.NDArray[np.bool_]
    procedure: Procedure = FIRST


def draw_order(rng: np.random.Generator, procedure: Procedure = FIRST) -> list[int]:
    """Phases as they follow each other: in order, some skipped, some gone back to."""
    order: list[int] = []
    for phase in range(len(procedure.plan)):
        if rng.random() < procedure.skipped.get(phase, 0.0):
            continue
        order.append(phase)
        before, chance = procedure.back.get(phase, (0, 0.0))
        if rng.random() < chance:
            order += [before, phase]
    return order


def draw_operation(
    rng: np.random.Generator, seconds: float, procedure: Procedure = FIRST
) -> Operation:
    """Phases of about ``seconds`` each, and their tools."""
    phases, tools = [], []
    for phase in draw_order(rng, procedure):
        length_s = seconds * procedure.plan[phase].length * rng.lognormal(-0.08, 0.4)
        frames = max(round(length_s * FPS), FPS)
        phases.append(np.full(frames, phase))
        shares = [procedure.plan[phase].tools.get(tool, 0.0) for tool in TOOLS]
        tools.append(np.stack([_in_view(rng, frames, share) for share in shares], axis=1))
    return Operation(np.concatenate(phases), np.concatenate(tools), procedure)


def frames_of(operation: Operation, rng: np.random.Generator) -> Iterator[npt.NDArray[np.uint8]]:
    """The video, (H, W, 3) a frame."""
    procedure = operation.procedure
    look = draw_look(rng, SHAPE_HW, procedure.tissue)
    start = rng.uniform(0, 2 * np.pi, (len(TOOLS), 2))
    drift = rng.uniform(0, 2 * np.pi, 2)
    noise = np.random.default_rng(rng.integers(2**31))
    for number, (phase, there_K) in enumerate(
        zip(operation.phase_T, operation.tools_TK, strict=True)
    ):
        time_s = number / FPS
        shake = 3 * np.sin(0.7 * time_s + drift) + noise.normal(0, 0.3, 2)
        picture = look.tissue(shake)
        for tool in np.flatnonzero(there_K):
            tip = _tip(procedure.plan[phase].motion, int(tool), start[tool], time_s)
            if TOOLS[tool] == "SpecimenBag":
                paint_bag(picture, look, tip)
            else:
                paint(picture, look, TOOLS[tool], tip)
        lit = look.light[..., None] * picture + noise.normal(0, 4, picture.shape)
        yield np.clip(lit, 0, 255).astype(np.uint8)


def write_operations(
    out: Path,
    *,
    counts: Sequence[int] = (40, 8, 16),
    seconds: float = 10.0,
    seed: int = 0,
    procedure: Literal["first", "second"] = "first",
) -> Path:
    """Write ``out/videos/{train,val,test}`` and ``out/labels``; returns the folder of labels.

    The same arguments give the same files.

    Args:
        out: folder.
        counts: videos to train on, to choose by, to test on.
        seconds: typical length of a phase.
        seed: of every random number.
        procedure: which of the two.
    """
    labels = out / "labels"
    labels.mkdir(parents=True)
    splits = np.repeat(["train", "val", "test"], counts)
    for number, split in enumerate(splits, start=1):
        rng = generator(seed, "operation" if procedure == "first" else procedure, number)
        operation = draw_operation(rng, seconds, PROCEDURES[procedure])
        name = f"video{number:02d}"
        write_video(out / "videos" / split / f"{name}.mp4", frames_of(operation, rng), FPS)
        _write_labels(labels / name, operation)
    return labels


def _write_labels(stem: Path, operation: Operation) -> None:
    lines = ["Frame\tPhase"]
    names = operation.procedure.names
    lines += [f"{n}\t{names[phase]}" for n, phase in enumerate(operation.phase_T)]
    stem.with_name(f"{stem.name}-phase.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = ["\t".join(["Frame", *TOOLS])]
    for n, there_K in enumerate(operation.tools_TK[::TOOL_EVERY].astype(int)):
        rows += ["\t".join(map(str, [n * TOOL_EVERY, *there_K]))]
    stem.with_name(f"{stem.name}-tool.txt").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _in_view(rng: np.random.Generator, frames: int, share: float) -> npt.NDArray[np.bool_]:
    """In and out of view by turns, for ``share`` of the time on average."""
    there = np.zeros(frames, dtype=bool)
    place, now = 0, bool(rng.random() < share)
    while share and place < frames:
        mean = 2 * _STAYS * (share if now else 1 - share)
        stay = _STAY + int(rng.exponential(mean))
        there[place : place + stay] = now
        place, now = place + stay, not now
    return there


def _tip(
    motion: Motion, tool: int, start: npt.NDArray[np.float64], time_s: float
) -> npt.NDArray[np.float64]:
    """Where the tip is; tools work side by side."""
    place = np.array([0.55, 0.32 + 0.09 * (tool % 5)]) * SHAPE_HW
    turn = 2 * np.pi * np.array(motion.rate_hw_hz) * time_s
    return np.asarray(place + np.array(motion.reach_hw_px) * np.sin(turn + start))
