"""Videos and their labels: who belongs to whom, names, splits, and what is refused."""

import numpy as np
import pytest

from medssl.archive.labelled_videos import load_videos
from medssl.core.errors import NothingUsableError, UsageError
from medssl.core.phases import CHOLEC80
from tests.surgery_videos import encode, phase_file, sound, surgery, tool_file


@pytest.fixture
def two(tmp_path):
    """video01 and video02 with phase files: cut and sew."""
    folder = tmp_path / "videos"
    for number in (1, 2):
        names = ["cut"] * 10 + ["sew"] * 10
        surgery(folder / f"video0{number}.mp4", [0, 1], seconds=2)
        phase_file(folder / f"video0{number}-phase.txt", names)
    return folder


def table(folder, *rows, header="video,time_s,label"):
    path = folder.parent / "labels.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_label_files_belong_to_the_video_of_their_name_wherever_they_lie(two, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    for file in two.glob("*.txt"):
        file.rename(labels / file.name)
    (two / "deep").mkdir()
    (two / "video02.mp4").rename(two / "deep" / "video02.mp4")
    found = load_videos(two, labels)
    assert found.names == ("cut", "sew")
    assert [case.track.video for case in found.cases] == ["video02", "video01"]
    assert len({case.patient for case in found.cases}) == 2
    assert found.channels == ("red", "green", "blue")


def test_labels_beside_the_videos_are_found(two):
    assert [case.name for case in load_videos(two).cases] == ["video01", "video02"]


def test_phases_of_cholec80_have_its_order(two):
    for number in (1, 2):
        phase_file(two / f"video0{number}-phase.txt", ["CleaningCoagulation"] * 5 + [CHOLEC80[0]])
    assert load_videos(two).names == CHOLEC80


def test_names_may_be_given_and_another_one_is_then_refused(two):
    assert load_videos(two, names=("sew", "cut", "wash")).names == ("sew", "cut", "wash")
    with pytest.raises(UsageError, match="not known") as error:
        load_videos(two, names=("cut", "saw"))
    assert "sew" in error.value.where


def test_a_folder_per_phase(tmp_path):
    for split in ("train", "val"):
        for phase in ("cut", "sew"):
            surgery(tmp_path / split / phase / "a.mp4", [0], seconds=1)
    found = load_videos(tmp_path)
    assert {case.name: (case.split, *case.track.names) for case in found.cases} == {
        "train_cut_a": ("train", "cut"), "train_sew_a": ("train", "sew"),
        "val_cut_a": ("val", "cut"), "val_sew_a": ("val", "sew"),
    }  # fmt: skip


def test_a_table_brings_patients_and_splits(two):
    rows = ["video01.mp4,0,cut,anna,train", "video02,0,sew,bert,test"]
    found = load_videos(two, table(two, *rows, header="video,time_s,label,patient,split"))
    assert [(c.patient, c.split) for c in found.cases] == [("anna", "train"), ("bert", "test")]


def test_no_video_stands_in_two_splits(two):
    rows = ["video01,0,cut,anna,train", "video02,0,sew,anna,test"]
    with pytest.raises(UsageError, match="more than one split"):
        load_videos(two, table(two, *rows, header="video,time_s,label,patient,split"))


def test_videos_without_labels_are_counted(two):
    (two / "video02-phase.txt").unlink()
    found = load_videos(two)
    assert [case.track is None for case in found.cases] == [False, True]
    assert found.skipped["unlabelled"] == 1


def test_labels_without_their_video_are_counted(two):
    phase_file(two / "video03-phase.txt", ["rest"] * 5)
    found = load_videos(two)
    assert found.skipped["labels without a video"] == 1
    assert "rest" not in found.names


def test_labels_of_other_videos_only_are_refused_and_one_is_named(two):
    labels = two.parent / "labels"
    labels.mkdir()
    phase_file(labels / "video03-phase.txt", ["cut"] * 5)
    with pytest.raises(UsageError, match="no labels of a video") as error:
        load_videos(two, labels)
    assert error.value.where == "video03"


def test_a_file_with_sound_only_is_no_video(two):
    sound(two / "video03.m4a")
    phase_file(two / "video03-phase.txt", ["cut"] * 5)
    assert load_videos(two).skipped["labels without a video"] == 1


def test_labels_that_fit_two_videos_are_refused_unless_the_path_tells_them_apart(two):
    surgery(two / "b" / "video01.mp4", [0], seconds=1)
    with pytest.raises(UsageError, match="fit several"):
        load_videos(two, table(two, "video01.mp4,0,cut", "video02,0,sew"))
    found = load_videos(two, table(two, "b/video01,0,cut", "video01,0,cut", "video02,0,sew"))
    assert all(case.track for case in found.cases)


def test_a_video_labelled_under_two_names_is_refused(two):
    with pytest.raises(UsageError, match="labelled twice"):
        load_videos(two, table(two, "video01,0,cut", "video01.mp4,0,sew"))


def test_one_phase_in_all_is_refused(two):
    for number in (1, 2):
        phase_file(two / f"video0{number}-phase.txt", ["cut"] * 5)
    with pytest.raises(UsageError, match="name 1 phases"):
        load_videos(two)


def test_names_that_differ_in_case_only_are_refused(two):
    phase_file(two / "video02-phase.txt", ["Cut"] * 5)
    with pytest.raises(UsageError, match="upper and lower"):
        load_videos(two)


def test_a_broken_video_is_a_case_that_says_why(two):
    (two / "video02.mp4").write_bytes((two / "video02.mp4").read_bytes()[:100])
    found = load_videos(two)
    assert [case.refused is None for case in found.cases] == [True, False]
    assert found.cases[1].track is not None


def test_half_a_video_and_a_video_of_one_frame_are_videos(two):
    half = encode(two / "half.avi", _grey_frames(40))
    half.write_bytes(half.read_bytes()[: len(half.read_bytes()) // 2])
    encode(two / "one.mp4", _grey_frames(1))
    rows = ["video01,0,cut", "half,0,sew", "one,0,sew"]
    found = load_videos(two, table(two, *rows))
    labelled = {case.name: case for case in found.cases if case.track}
    assert labelled["one"].records()[0].shape[1] == 1
    assert 0 < labelled["half"].records()[0].shape[1] < 40


def test_tools_keep_the_order_of_their_file(two):
    tools = ("Hook", "Grasper")
    for number in (1, 2):
        tool_file(two / f"video0{number}-tool.txt", tools, [[1, 0], [0, 0]])
    assert load_videos(two, tools=True).names == tools


def test_without_labels_or_videos_there_is_an_error(two, tmp_path):
    with pytest.raises(UsageError, match="no labels"):
        load_videos(two, tools=True)
    for file in two.glob("*.mp4"):
        file.unlink()
    with pytest.raises(NothingUsableError, match="no video"):
        load_videos(two)
    with pytest.raises(UsageError, match="do not exist"):
        surgery(two / "a.mp4", [0], seconds=1)
        load_videos(two, tmp_path / "nowhere")


def test_two_kinds_of_label_files_in_one_folder_are_refused(two):
    (two / "video01_phases.csv").write_text("time_s,phase\n0,cut\n1,sew\n")
    with pytest.raises(UsageError, match="two kinds"):
        load_videos(two)


def _grey_frames(count):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 255, (48, 48, 3), dtype=np.uint8) for _ in range(count)]
