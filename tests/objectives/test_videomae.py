"""VideoMAE: tubes, and what is drawn (methods 2.1, the lines on video)."""

import pytest
import torch

from medssl.core.errors import ConfigError
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.encoders._tokens import patchify
from medssl.objectives.videomae import Config, Objective
from tests.objectives.tiny import ENCODERS, batch_of, make


@pytest.fixture
def task():
    return make("videomae", "video_vit-xs")


def test_16_frames_of_224_pixels_hide_1408_of_1568_tokens():
    encoder = build_encoder("video_vit-xs", {}, 3)
    setting = Setting(crop=(16, 224, 224), records=1, kind="clip")
    view = Objective(encoder, Config(), setting).views().views[0]
    [mask] = batch_of(None, 1, spec=_small(setting, view))["views"]
    hidden = mask["mask"].view(8, 14, 14)
    assert hidden.sum() == 1408
    assert (hidden == hidden[0]).all()


def _small(setting, view):
    """The mask of a clip, on voxels that cost little."""
    from medssl.core.viewspec import ViewSpec

    mask = view.mask.model_copy(update={"token_size": (1, 1, 1)})
    small = view.model_copy(update={"crop": (8, 14, 14), "mask": mask})
    return ViewSpec(views=(small,), clip=setting.frames)


def test_the_same_places_are_hidden_in_every_time_step(task):
    for view in batch_of(task)["views"]:
        mask = view["mask"].view(-1, 2, 16)
        assert torch.equal(mask[:, 0], mask[:, 1])
        assert (mask.sum(2) == int(0.9 * 16)).all()


def test_targets_are_standardised_per_tubelet_and_channel():
    encoder = build_encoder("video_vit-xs", ENCODERS["video_vit-xs"][1], 3)
    task = Objective(encoder, Config(), Setting(crop=(4, 16, 16), records=8, kind="clip"))
    x = torch.randn(2, 3, 4, 16, 16) * torch.tensor([1.0, 5.0, 9.0]).view(3, 1, 1, 1) + 2
    by_channel = task.target(x).view(2, 32, 3, -1)
    torch.testing.assert_close(by_channel.mean(-1), torch.zeros(2, 32, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(by_channel.var(-1), torch.ones(2, 32, 3), atol=1e-4, rtol=0)
    red = x[:, :1]
    own = patchify(red, (2, 4, 4))
    wanted = (own - own.mean(-1, keepdim=True)) / own.std(-1, keepdim=True)
    torch.testing.assert_close(by_channel[:, :, 0], wanted, atol=1e-4, rtol=1e-4)


def test_a_tubelet_of_one_grey_value_is_drawn_as_0(task):
    assert (task.target(torch.full((1, 1, 4, 16, 16), 7.0)) == 0).all()


def test_hidden_tubes_cannot_be_seen_by_what_draws_them(task):
    batch, seen = batch_of(task), []
    task.token_decoder.register_forward_hook(lambda *a: seen.append(a[2]))
    view = batch["views"][0]
    hidden = view["mask"].view(-1, 1, 2, 4, 4)
    for axis, side in enumerate((2, 4, 4), start=2):
        hidden = hidden.repeat_interleave(side, axis)
    with torch.no_grad():
        task.eval().step(batch)
        view["x"] = view["x"].masked_fill(hidden, 50.0)
        task.step(batch)
        view["x"] = view["x"] + (~hidden)
        task.step(batch)
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[0], seen[2])


@pytest.mark.parametrize(
    ("encoder", "crop", "word"),
    [
        ("frames/timm/resnet18", (4, 64, 64), "leaves hidden tokens out"),
        ("vit3d-xs", (16, 16, 16), "learns from clips"),
    ],
)
def test_other_encoders_are_refused_with_a_way_out(encoder, crop, word):
    net = build_encoder(encoder, {}, 1)
    with pytest.raises(ConfigError, match=word) as refusal:
        Objective(net, Config(), Setting(crop=crop, records=8, kind=net.kind))
    assert "mae" in refusal.value.fix


def test_tubes_are_refused_where_there_is_no_time():
    with pytest.raises(ConfigError, match="tubes are hidden in clips") as refusal:
        make("mae", "vit3d-xs", mask_kind="tube")
    assert "column" in refusal.value.fix
