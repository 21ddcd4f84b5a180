"""What masked objectives draw, put back into the picture."""

import pytest
import torch

from medssl.encoders._tokens import blocks_to_voxels, patchify
from tests.objectives.tiny import batch_of, make

CASES = [
    ("mae", "vit3d-xs"),
    ("mae", "resenc-xs"),
    ("videomae", "video_vit-xs"),
    ("simmim", "vit3d-xs"),
    ("simmim", "resenc-xs"),
]


@pytest.mark.parametrize(("objective", "encoder"), CASES)
def test_visible_voxels_stay_and_a_perfect_drawing_is_the_input(objective, encoder, monkeypatch):
    task = make(objective, encoder).eval()
    [view] = batch_of(task)["views"]
    x, mask, size = view["x"], view["mask"], task.encoder.token_size
    hidden = blocks_to_voxels(mask, task.encoder.grid(tuple(x.shape[2:])), size).expand_as(x)
    with torch.no_grad():
        drawn = task.rebuild(view)
        assert torch.equal(drawn[~hidden], x[~hidden])
        assert not torch.allclose(drawn[hidden], x[hidden])
        tokens = objective != "simmim" and task.decoder is None
        perfect = task.target(x) if tokens else patchify(x, size)
        monkeypatch.setattr(task, "_draw", lambda *_: perfect)
        torch.testing.assert_close(task.rebuild(view), x, atol=2e-3, rtol=0)
