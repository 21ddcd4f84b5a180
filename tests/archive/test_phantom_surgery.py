"""Phantom operations: phases in order with gaps and repeats, tools that fit, Cholec80's files."""

from itertools import pairwise

import numpy as np
import pytest

from medssl.archive._phantom_tools import TOOLS, draw_look, paint, paint_bag
from medssl.archive.labelled_videos import load_videos
from medssl.archive.phantom_surgery import (
    FPS,
    PROCEDURES,
    SHAPE_HW,
    draw_operation,
    draw_order,
    frames_of,
    write_operations,
)
from medssl.core.phases import CHOLEC80
from medssl.core.seeding import generator

ORDERS = [draw_order(generator(0, n)) for n in range(400)]
OPERATIONS = [draw_operation(generator(1, n), 4.0) for n in range(40)]


def test_phases_come_in_order_but_for_repeats():
    for order in ORDERS:
        back = [(a, b) for a, b in pairwise(order) if b <= a]
        assert set(back) <= {(2, 1), (5, 3)} and len(back) <= 2


def test_some_are_skipped_and_some_repeated_and_the_core_is_always_there():
    assert all({1, 2, 3} <= set(order) for order in ORDERS)
    skipped = np.mean([len(set(order)) < 7 for order in ORDERS])
    repeated = np.mean([len(set(order)) < len(order) for order in ORDERS])
    assert 0.3 < skipped < 0.6 and 0.25 < repeated < 0.55


def test_lengths_vary_from_video_to_video():
    lengths = np.array([len(one.phase_T) for one in OPERATIONS])
    assert lengths.max() > 1.8 * lengths.min() and lengths.min() > 5 * FPS


@pytest.mark.parametrize(
    ("phase", "allowed"),
    [(0, {"Grasper"}), (1, {"Grasper", "Hook"}), (3, {"Grasper", "Hook"}),
     (4, {"Grasper", "SpecimenBag"}), (5, {"Irrigator", "Bipolar", "Grasper"})],
)  # fmt: skip
def test_tools_in_view_are_those_of_the_phase_and_not_always_there(phase, allowed):
    seen = np.concatenate([one.tools_TK[one.phase_T == phase] for one in OPERATIONS])
    assert {TOOLS[k] for k in np.flatnonzero(seen.any(0))} == allowed
    assert (seen[:, seen.any(0)].mean(0) < 0.95).all()


@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_is_seen_and_looks_like_no_other(tool):
    look = draw_look(generator(0), SHAPE_HW)
    bare = look.tissue(np.zeros(2))

    def with_tool(name):
        picture = bare.copy()
        tip = np.array([50.0, 64.0])
        paint_bag(picture, look, tip) if name == "SpecimenBag" else paint(picture, look, name, tip)
        return picture

    mine = with_tool(tool)
    assert 50 < (np.abs(mine - bare).max(-1) > 20).sum() < 0.3 * bare[..., 0].size
    others = [with_tool(name) for name in TOOLS if name != tool]
    assert all((np.abs(mine - other).max(-1) > 20).sum() > 20 for other in others)


def test_the_same_tools_move_otherwise_in_another_phase():
    one = OPERATIONS[0]
    swing = {}
    for phase in (1, 3):
        there = np.tile(np.array(TOOLS) == "Hook", (2 * FPS, 1))
        shown = type(one)(np.full(2 * FPS, phase), there)
        frames = np.stack([x.astype(float) for x in frames_of(shown, generator(3))])
        swing[phase] = (np.ptp(frames, axis=0).max(-1) > 60).sum()
    assert swing[3] > 2 * swing[1]


def test_the_second_procedure_has_other_phases_in_order_on_paler_tissue():
    second = PROCEDURES["second"]
    orders = [draw_order(generator(0, n), second) for n in range(300)]
    back = {(a, b) for order in orders for a, b in pairwise(order) if b <= a}
    assert back == {(2, 1), (3, 2)}
    assert all({1, 2, 3, 5} <= set(order) for order in orders)
    assert not set(second.names) & set(CHOLEC80)
    tools = [frozenset(phase.tools) for one in PROCEDURES.values() for phase in one.plan]
    assert len(set(tools[7:]) - set(tools[:7])) == 5
    colours = [np.mean([draw_look(generator(n), SHAPE_HW, one.tissue).ground.mean((0, 1))
                        for n in range(20)], 0) for one in PROCEDURES.values()]  # fmt: skip
    assert colours[1][1] > colours[0][1] + 40


def test_files_of_the_second_procedure_name_its_phases(tmp_path):
    write_operations(tmp_path, counts=(2, 0, 0), seconds=0.3, procedure="second")
    found = load_videos(tmp_path / "videos", tmp_path / "labels")
    assert set(found.names) <= set(PROCEDURES["second"].names) and len(found.names) > 3


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("operations")
    write_operations(out, counts=(2, 1, 1), seconds=0.5, seed=7)
    return out


def test_label_files_are_read_as_those_of_cholec80(written):
    phases = load_videos(written / "videos", written / "labels")
    assert phases.names == CHOLEC80
    assert [case.split for case in phases.cases] == ["test", "train", "train", "val"]
    tools = load_videos(written / "videos", written / "labels", tools=True)
    assert tools.names == TOOLS
    for case in phases.cases:
        [found] = case.records()
        lines = (written / "labels" / f"{case.name.rsplit('_')[-1]}-phase.txt").read_text()
        assert lines.count("\n") == 1 + found.shape[1]


def test_same_seed_same_files(written, tmp_path):
    write_operations(tmp_path, counts=(1, 0, 0), seconds=0.5, seed=7)
    for name in ("videos/train/video01.mp4", "labels/video01-tool.txt"):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()
