"""Label files of videos: what they say of which frame, and what is refused."""

import numpy as np
import pytest

from medssl.archive.tracks import (
    read_phase_file,
    read_phases_csv,
    read_table,
    read_tool_file,
    whole,
)
from medssl.core.errors import UsageError
from tests.surgery_videos import phase_file, tool_file

NAMES = ("Preparation", "Dissection", "Cleaning")


def write(path, text):
    path.write_text(text)
    return path


def seconds(track, times_s):
    """Phases at frames that are shown at these times of a 25 fps video."""
    times = np.asarray(times_s, dtype=float)
    return track.phases(track.rows(np.round(times * 25), times), NAMES).tolist()


def test_cholec80s_phase_file_labels_frames_of_25_per_second(tmp_path):
    lines = ["Preparation"] * 30 + ["Dissection"] * 50
    track = read_phase_file(phase_file(tmp_path / "video01-phase.txt", lines))
    assert (track.video, track.clock, track.step) == ("video01", "frame", 1)
    assert seconds(track, [0, 1, 29 / 25, 30 / 25, 2, 79 / 25]) == [0, 0, 0, 1, 1, 1]


def test_frames_behind_the_last_line_have_no_phase(tmp_path):
    track = read_phase_file(phase_file(tmp_path / "v-phase.txt", ["Cleaning"] * 10))
    assert seconds(track, [9 / 25, 10 / 25, 100]) == [2, -1, -1]


def test_a_phase_file_of_one_frame(tmp_path):
    track = read_phase_file(phase_file(tmp_path / "v-phase.txt", ["Cleaning"]))
    assert seconds(track, [0, 1 / 25]) == [2, -1]


def test_cholec80s_tool_file_has_a_line_per_25th_frame(tmp_path):
    path = tool_file(tmp_path / "video01-tool.txt", ["Grasper", "Hook"], [[1, 0], [1, 1], [0, 0]])
    track = read_tool_file(path)
    assert (track.step, track.columns) == (25, ("Grasper", "Hook"))
    rows = track.rows([0, 25, 50, 75, 37], [0, 1, 2, 3, 1.5])
    assert rows.tolist() == [0, 1, 2, -1, 1]
    found = track.tools(rows, ("Hook", "Grasper", "Clipper"))
    assert found.astype(int).tolist() == [[0, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0], [1, 1, 0]]


@pytest.mark.parametrize(("clock", "rate"), [("frame", 25), ("time_s", 1)])
def test_a_table_by_frame_or_by_second(tmp_path, clock, rate):
    rows = [f"a,{n * rate},Preparation" for n in range(3)] + [f"a,{3 * rate},"]
    rows += [f"b,{n * rate},Dissection" for n in (1, 0)]
    a, b = read_table(write(tmp_path / "t.csv", "\n".join([f"video,{clock},label", *rows])))
    assert seconds(a, [0, 1, 2, 3, 4]) == [0, 0, 0, -1, -1]
    assert seconds(b, [0, 1]) == [1, 1]


def test_several_tools_of_a_table_are_separated_by_semicolons(tmp_path):
    text = "video,time_s,label\na,0,hook; grasper\na,1,\na,2,hook\n"
    [track] = read_table(write(tmp_path / "t.csv", text))
    found = track.tools(track.rows([0, 25, 50], [0, 1, 2]), ("grasper", "hook"))
    assert found.tolist() == [[True, True], [False, False], [False, True]]


def test_two_phases_of_one_frame_are_refused(tmp_path):
    [track] = read_table(write(tmp_path / "t.csv", "video,time_s,label\na,0,x;y\n"))
    with pytest.raises(UsageError, match="two phases"):
        track.phases(track.rows([0], [0]), ("x", "y"))


def test_what_predict_wrote_is_read(tmp_path):
    text = "time_s,phase,probability\n0.0,Preparation,0.9\n1.0,Cleaning,0.5\n"
    track = read_phases_csv(write(tmp_path / "case_7_phases.csv", text))
    assert track.video == "case_7"
    assert seconds(track, [0, 1, 2]) == [0, 2, -1]


def test_times_rounded_to_centiseconds_are_one_rate(tmp_path):
    rows = "".join(f"{n / 30:.2f},Cleaning\n" for n in range(90))
    assert (
        len(read_phases_csv(write(tmp_path / "a_phases.csv", "time_s,phase\n" + rows)).at_N) == 90
    )


def test_a_whole_video_of_one_label():
    assert seconds(whole("a", "Dissection"), [0, 1, 1e6]) == [1, 1, 1]


def lines(*numbers):
    return "Frame\tPhase\n" + "".join(f"{n}\tCleaning\n" for n in numbers)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (lines(0, 1, 2, 4, 5), "between frame 2 and 4"),
        (lines(0, 1, 1, 2), "frame 1 is listed twice"),
        (lines(1, 2, 3), "begin at 1"),
        (lines(0, 25, 50), "rise by 25"),
        ("Frame\tPhase\n", "no lines"),
        ("", "no lines"),
        ("Frame,Phase\n0,Cleaning\n", "Frame<TAB>Phase"),
        ("Frame\tPhase\n0\tCleaning\textra\n", "3 columns"),
        ("Frame\tPhase\nzero\tCleaning\n", "no number"),
        (lines(-1, 0, 1), "negative"),
        ("Frame\tPhase\nnan\tCleaning\n", "no number"),
    ],
)
def test_phase_files_with_gaps_or_nonsense_are_refused(tmp_path, text, what):
    with pytest.raises(UsageError, match=what) as error:
        read_phase_file(write(tmp_path / "v-phase.txt", text))
    assert str(tmp_path) not in error.value.what + error.value.fix


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("Frame\tHook\n0\t2\n", "neither 0 nor 1"),
        ("Frame\tHook\tHook\n0\t1\t1\n", "names of tools"),
        ("Frame\n0\n", "names of tools"),
        ("Frame\tHook\n0\t1\n25\t1\n75\t1\n100\t0\n", "between frame 25 and 75"),
    ],
)
def test_tool_files_with_gaps_or_nonsense_are_refused(tmp_path, text, what):
    with pytest.raises(UsageError, match=what):
        read_tool_file(write(tmp_path / "v-tool.txt", text))


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("video,label\na,x\n", "one of frame and time_s"),
        ("video,frame,time_s,label\na,0,0,x\n", "one of frame and time_s"),
        ("video,frame\na,0\n", "lacks"),
        ("video,frame,label\n,0,x\n", "names no video"),
        ("video,frame,label,split\na,0,x,train\na,1,x,test\n", "two entries of split"),
        ("video,time_s,label\na,0,x\na,1,x\na,1,y\n", "listed twice"),
    ],
)
def test_tables_with_nonsense_are_refused(tmp_path, text, what):
    with pytest.raises(UsageError, match=what):
        read_table(write(tmp_path / "t.csv", text))


def test_an_unknown_phase_is_named(tmp_path):
    track = read_phase_file(phase_file(tmp_path / "v-phase.txt", ["Preparation", "Celaning"]))
    with pytest.raises(UsageError, match="not known") as error:
        seconds(track, [0])
    assert "Celaning" in error.value.where
