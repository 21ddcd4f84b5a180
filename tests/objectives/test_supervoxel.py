"""Golden checks of the distillation over supervoxels: pooling, contrast, the frozen teacher."""

from math import exp, log
from pathlib import Path

import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.encoders.card import load_card, part_of
from medssl.objectives._parts.frozen import SliceTeacher, fitting
from medssl.objectives._parts.regions import cells_of_voxels, pooled, pooled_map, regions_of
from medssl.objectives.supervoxel import Keys, supervoxel_nce
from tests.objectives.teachers import teacher_run
from tests.objectives.tiny import batch_of, config_of, make, run

SIZE = (4, 8, 6)


def labels(samples=2, most=5, seed=0):
    """Label maps with gaps in their numbers, 0 = none."""
    drawn = torch.randint(0, most, (samples, *SIZE), generator=torch.Generator().manual_seed(seed))
    return drawn * 3


def alone(key_MD):
    """Supervoxels of one volume."""
    count = len(key_MD)
    return Keys(key_MD, torch.ones(count, count, dtype=torch.bool), torch.arange(count))


@pytest.mark.parametrize("grid", [SIZE, (2, 4, 3), (1, 1, 1), (4, 3, 5)])
def test_a_constant_map_pools_to_that_constant(grid):
    regions = regions_of(labels())
    constant = torch.tensor([3.5, -1.25])[:, None, None, None].expand(2, 2, *grid)
    found = pooled_map(constant, SIZE, regions)
    torch.testing.assert_close(found, torch.tensor([3.5, -1.25]).expand(len(found), 2))


def test_pooling_on_the_voxel_grid_is_the_mean_of_the_voxels():
    segments, x = labels(), torch.randn(2, 3, *SIZE)
    found = pooled_map(x, SIZE, regions_of(segments))
    ids = [(b, k) for b in range(2) for k in (3, 6, 9, 12)]
    wanted = torch.stack([x[b][:, segments[b] == k].mean(1) for b, k in ids])
    torch.testing.assert_close(found, wanted)


def test_pooling_from_a_coarse_map_is_that_of_the_map_enlarged():
    segments, x = labels(), torch.randn(2, 3, 2, 4, 3)
    large = torch.nn.functional.interpolate(x, SIZE, mode="nearest")
    regions = regions_of(segments)
    torch.testing.assert_close(pooled_map(x, SIZE, regions), pooled_map(large, SIZE, regions))


def test_empty_supervoxels_and_air_have_no_row():
    segments = torch.zeros(2, *SIZE, dtype=torch.long)
    segments[0, 0], segments[0, 1], segments[1, 2] = 2, 9, 4
    regions = regions_of(segments)
    assert regions.sample_M.tolist() == [0, 0, 1]
    assert regions.size_M.tolist() == [48, 48, 48]
    assert (regions.row_BV.view_as(segments) == -1).equal(segments == 0)


@pytest.mark.parametrize("highest", [1, 7, 10**6])
def test_numbers_of_two_samples_never_collide(highest):
    segments = torch.full((3, *SIZE), highest)
    segments[1] = 1
    regions = regions_of(segments)
    assert regions.sample_M.tolist() == [0, 1, 2]
    assert regions.row_BV[:, 0].tolist() == [0, 1, 2]


def test_the_numbers_of_supervoxels_do_not_matter():
    segments = labels()
    renamed = torch.tensor([0, 0, 0, 50, 0, 0, 2, 0, 0, 31, 0, 0, 7])[segments]
    features = torch.randn(2, 4, *SIZE)
    losses = []
    for each in (segments, renamed):
        regions = regions_of(each)
        mean_MD = pooled_map(features, SIZE, regions)
        same_MM = regions.sample_M[:, None] == regions.sample_M
        keys = Keys(mean_MD.flip(1), same_MM, torch.arange(len(mean_MD)))
        losses.append(supervoxel_nce(mean_MD, keys, 0.07))
    torch.testing.assert_close(*losses)


def test_duplicated_voxels_do_not_change_the_mean():
    segments, x = labels(1), torch.randn(1, 3, *SIZE)
    twice = (t.repeat_interleave(2, -1) for t in (segments, x))
    a = pooled_map(x, SIZE, regions_of(segments))
    segments, x = twice
    b = pooled_map(x, tuple(segments.shape[1:]), regions_of(segments))
    torch.testing.assert_close(a, b)


@pytest.mark.parametrize("count", [2, 8, 150])
def test_equal_supervoxels_leave_a_guess_among_them(count):
    one = torch.ones(count, 4)
    assert supervoxel_nce(one, alone(one), 0.07).item() == pytest.approx(log(count), abs=1e-5)


def test_orthonormal_supervoxels_have_the_closed_form():
    loss = supervoxel_nce(torch.eye(8), alone(torch.eye(8)), 0.5).item()
    assert loss == pytest.approx(log(1 + 7 * exp(-2)), abs=1e-6)


def test_supervoxels_of_other_volumes_are_no_negatives():
    # Three in one volume and five in another, all equal: log 3 and log 5, each supervoxel once.
    sample = torch.tensor([0] * 3 + [1] * 5)
    one = torch.ones(8, 4)
    keys = Keys(one, sample[:, None] == sample, torch.arange(8))
    wanted = (3 * log(3) + 5 * log(5)) / 8
    assert supervoxel_nce(one, keys, 0.07).item() == pytest.approx(wanted, abs=1e-5)


def test_no_supervoxel_costs_nothing_and_leaves_a_graph():
    none = torch.zeros(0, 4, requires_grad=True)
    keys = Keys(torch.zeros(0, 4), torch.zeros(0, 0, dtype=torch.bool), torch.arange(0))
    loss = supervoxel_nce(none, keys, 0.07)
    loss.backward()
    assert loss.item() == 0


def test_a_crop_of_air_trains_nothing():
    task = make("supervoxel", "resenc-xs")
    batch = batch_of(task)
    batch["views"][0]["segments"].zero_()
    task.step(batch).loss.backward()
    assert all(not p.grad.any() for p in task.parameters() if p.requires_grad)


def test_in_a_batch_other_parts_of_other_records_are_negatives():
    task = make("supervoxel", "resenc-xs", negatives="batch", parts=2)
    batch = batch_of(task, samples=4)
    batch["views"][0]["position"][:, 0] = torch.tensor([0.1, 0.2, 0.9, 0.8])
    batch["record"] = torch.tensor([0, 1, 2, 0])
    sample = regions_of(batch["views"][0]["segments"]).sample_M
    allowed = task._compared(batch)[1].allowed_MN
    seen = {
        (int(a), int(b)) for a, b in zip(*(sample[i] for i in allowed.nonzero().T), strict=True)
    }
    # Samples 0 and 1 are of one part; 2 and 3 of another; 0 and 3 are crops of one record.
    assert seen == {(i, i) for i in range(4)} | {(0, 2), (2, 0), (1, 2), (2, 1), (1, 3), (3, 1)}


def teacher_of(**options):
    values = {"every": 1, "zoom": 1.0, **options}
    config = config_of("supervoxel", **{k: v for k, v in values.items() if k == "teacher"})
    return SliceTeacher(config.teacher, 1, every=values["every"], zoom=values["zoom"])


def ramp(axis, size=(16, 24, 32)):
    """A volume whose slices across ``axis`` are constant, each with its own value."""
    places = torch.arange(size[axis], dtype=torch.float32)
    shape = [1, 1, 1, 1, 1]
    shape[2 + axis] = -1
    return places.view(shape).expand(1, 1, *size)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("every", [1, 3])
def test_every_voxel_has_the_feature_of_its_own_slice(axis, every):
    teacher, x = teacher_of(every=every), ramp(axis)
    teacher.net.forward = lambda x_SCHW: (  # the value of the slice as the only feature
        x_SCHW.mean((1, 2, 3))[:, None, None].expand(
            -1, (x_SCHW.shape[2] // 8) * (x_SCHW.shape[3] // 8), 1
        )
    )
    seen = teacher(x, torch.ones(1, 3), axis)
    found = seen.cells_ND[seen.cell_BV[0], 0].view(16, 24, 32)
    assert (found - x[0, 0]).abs().max() <= every // 2 + (every > 1)


@pytest.mark.parametrize(
    ("zoom", "spacing_mm"), [(1.0, (1.0,) * 3), (2.0, (1.0,) * 3), (1.0, (4.0, 1.0, 1.0))]
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_voxel_has_the_feature_of_its_own_place(axis, zoom, spacing_mm):
    teacher = teacher_of(zoom=zoom)
    x = torch.nn.functional.interpolate(torch.randn(1, 1, 4, 6, 8), scale_factor=4)  # (16, 24, 32)

    def means(x_SCHW):  # the mean grey value of each token
        pooled = torch.nn.functional.avg_pool2d(x_SCHW, 8)
        return pooled.flatten(2).transpose(1, 2)

    teacher.net.forward = means
    seen = teacher(x, torch.tensor([spacing_mm]), axis)
    found = seen.cells_ND[seen.cell_BV[0], 0].view(16, 24, 32)
    assert torch.corrcoef(torch.stack([found.flatten(), x.flatten()]))[0, 1] > 0.3
    shifted = found.roll(8, 1 if axis != 1 else 2)
    assert torch.corrcoef(torch.stack([shifted.flatten(), x.flatten()]))[0, 1] < 0.2


def test_thick_slices_are_seen_with_square_pixels():
    teacher, sizes = teacher_of(), []
    forward = teacher.net.forward
    teacher.net.forward = lambda x: sizes.append(tuple(x.shape[2:])) or forward(x)
    x = torch.randn(1, 1, 8, 32, 40)
    for axis in range(3):
        teacher(x, torch.tensor([[4.0, 1.0, 1.0]]), axis)
    assert sizes == [(32, 40), (32, 40), (32, 32)]


def test_pixels_are_those_that_the_teacher_was_trained_on():
    teacher, sizes = teacher_of(teacher=teacher_run(spacing_mm=(5.0, 0.5, 0.5))), []
    forward = teacher.net.forward
    teacher.net.forward = lambda x: sizes.append(tuple(x.shape[2:])) or forward(x)
    teacher(torch.randn(1, 1, 8, 16, 24), torch.ones(1, 3), 0)
    assert sizes == [(32, 48)]


def test_slices_are_padded_to_what_the_teacher_takes():
    net = teacher_of(teacher=teacher_run("timm/test_resnet")).net.encoder
    size = fitting(net, (20, 33))
    net.check_size(size)
    assert size[0] >= 20
    assert size[1] >= 33


def test_a_grey_volume_is_copied_to_the_channels_of_the_teacher():
    teacher = teacher_of(teacher=teacher_run(channels=3))
    shown = []
    forward = teacher.net.forward
    teacher.net.forward = lambda x: shown.append(x) or forward(x)
    teacher(torch.randn(1, 1, 8, 16, 16), torch.ones(1, 3), 0)
    assert shown[0].shape[1] == 3
    assert (shown[0] == shown[0][:, :1]).all()


def test_the_teacher_stays_bitwise_and_is_not_in_the_model_that_is_kept():
    task = make("supervoxel", "resenc-xs").train()
    before = {k: v.clone() for k, v in task.teacher.state_dict().items()}
    run(task, batch_of(task), steps=2)
    assert not any(module.training for module in task.teacher.net.modules())
    assert all(torch.equal(v, before[k]) for k, v in task.teacher.state_dict().items())
    assert not any("teacher" in k for k in task.encoder.state_dict())


def test_the_teacher_is_that_of_the_run():
    task = make("supervoxel", "resenc-xs")
    _, weights = load_card(Path(teacher_run()))
    found = task.teacher.net.encoder.state_dict()
    assert all(torch.equal(found[k], v) for k, v in part_of(weights, "encoder").items())


@pytest.mark.parametrize(
    ("teacher", "word"),
    [
        (None, "no teacher"),
        ("nowhere", "no folder of a run"),
        ("timm/test_vit", "random weights"),
        ({"name": "timm/test_vit", "weights": "missing.safetensors"}, "no such file"),
    ],
)
def test_a_missing_teacher_is_refused_with_a_way_out(teacher, word):
    with pytest.raises(Exception, match=word) as refusal:
        make("supervoxel", "resenc-xs", teacher=teacher)
    assert refusal.value.fix


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no model") as refusal:
        make("supervoxel", "resenc-xs", teacher=str(tmp_path))
    assert str(tmp_path) not in refusal.value.what + refusal.value.fix


def test_a_volume_teacher_is_refused():
    with pytest.raises(ConfigError, match="no image encoder"):
        make("supervoxel", "resenc-xs", teacher=teacher_run("resenc-xs"))


def test_options_beside_a_run_are_refused():
    given = {"name": teacher_run(), "patch_size": 4}
    with pytest.raises(ConfigError, match="patch_size"):
        make("supervoxel", "resenc-xs", teacher=given)


def test_cells_lie_where_the_voxels_are():
    assert cells_of_voxels((4, 4), (2, 2)).view(4, 4).tolist() == [
        [0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3],
    ]  # fmt: skip


def test_pooling_passes_gradients_by_shares_of_voxels():
    segments = torch.tensor([[1, 1, 1, 2]])
    cells = torch.zeros(2, 1, requires_grad=True)
    regions = regions_of(segments)
    pooled(cells, torch.tensor([[0, 0, 1, 1]]), regions)[0].sum().backward()
    torch.testing.assert_close(cells.grad.flatten(), torch.tensor([2 / 3, 1 / 3]))
