"""What every registered objective promises, with two encoders of each kind.

A cell that an objective refuses is skipped with the objective's own words; `REFUSED` lists them.
"""

from math import prod

import pytest
import torch
from torch.utils._pytree import tree_leaves, tree_map

from medssl.core.config import config_root, load_config, validate
from medssl.core.errors import ConfigError
from medssl.core.registry import ENCODERS, OBJECTIVES
from medssl.encoders._base import Encoder
from medssl.stages.pretrain import PretrainConfig
from medssl.training.optim import OptimConfig, build_optimizer
from tests.objectives.tiny import ENCODERS as TINY
from tests.objectives.tiny import (
    RECORDS,
    SHAPES,
    batch_of,
    make,
    phantom,
    quickest,
    ready,
    run,
    running,
)

NAMES = OBJECTIVES.names()
CELLS = [(name, encoder) for name in NAMES for encoder in TINY]


def quick(*more):
    """All cells: the fast run has each objective on its quickest encoder, and on ``more``."""
    return [
        pytest.param(*cell, marks=[pytest.mark.slow] * (cell[1] not in (quickest(cell[0]), *more)))
        for cell in CELLS
    ]


ONE = quick()
TWO = quick("timm/vit_tiny_patch16_224")
# Objective -> encoders it cannot work on, and a word of the reason.
REFUSED = {
    **{
        (name, "video_vit-xs"): "this encoder takes clips"
        for name in ("alice", "anatomy", "glare", "local_global", "voco")
    },
    **{
        (name, encoder): "learns from clips"
        for name in ("clip_order", "discovr", "speed", "videomae", "vjepa")
        for encoder in set(TINY) - {"video_vit-xs"}
    },
    ("image_volume", "video_vit-xs"): "takes an image encoder",
    ("supervoxel", "video_vit-xs"): "takes a volume one",
    ("image_volume", "resenc-xs"): "takes an image encoder",
    ("image_volume", "vit3d-xs"): "takes an image encoder",
    ("jepa", "resenc-xs"): "leaves hidden tokens out",
    ("jepa", "timm/resnet18"): "leaves hidden tokens out",
    ("supervoxel", "timm/resnet18"): "takes a volume one",
    ("supervoxel", "timm/vit_tiny_patch16_224"): "takes a volume one",
}
# Objectives for which a batch of one means nothing, and a word of the reason.
NO_BATCH_OF_ONE = {"alice": "one sample is too few"}


@pytest.fixture
def built(name, encoder):
    """The objective on the encoder, ready for its first step; refused cells are skipped."""
    try:
        return ready(make(name, encoder))
    except ConfigError as refusal:
        pytest.skip(str(refusal))


def test_refused_cells_are_those_that_are_documented():
    found = {}
    for name, encoder in CELLS:
        try:
            make(name, encoder)
        except ConfigError as refusal:
            assert REFUSED.get((name, encoder), "not listed") in refusal.what
            assert refusal.fix
            found[name, encoder] = REFUSED[name, encoder]
    assert found == REFUSED
    assert not [name for name in NAMES if (name, quickest(name)) in REFUSED]


@pytest.mark.parametrize(("name", "encoder"), CELLS)
def test_loss_is_one_finite_float32(built):
    output = built.step(batch_of(built))
    assert output.loss.ndim == 0
    assert output.loss.dtype == torch.float32
    assert all(
        torch.isfinite(v).all() and v.numel() == 1 for v in (output.loss, *output.log.values())
    )


@pytest.mark.parametrize(("name", "encoder"), TWO)
def test_every_weight_learns_and_teachers_get_no_gradient(built):
    built.step(batch_of(built)).loss.backward()
    for name, weight in built.named_parameters():
        assert (weight.grad is not None) == weight.requires_grad, name
    assert any(p.requires_grad for p in built.encoder.parameters())
    assert not any(p.requires_grad for n, p in built.named_parameters() if "teacher" in n)


@pytest.mark.parametrize(("name", "encoder"), ONE)
def test_no_gradient_is_zero_after_some_steps(built):
    batch = batch_of(built)
    run(built, batch, steps=3)  # layers that start at 0 hold back the gradient at first
    built.step(batch).loss.backward()
    dead = [
        n for n, p in built.named_parameters() if p.requires_grad and not p.grad.abs().max() > 0
    ]
    assert dead == []


@pytest.mark.parametrize(("name", "encoder"), ONE)
def test_every_term_has_a_live_gradient(built):
    batch = batch_of(built)
    terms = built.terms(batch)
    assert terms
    assert terms.keys() <= built.step(batch).log.keys()
    for name, term in terms.items():
        weights = [p for p in built.parameters() if p.requires_grad]
        grads = torch.autograd.grad(term, weights, retain_graph=True, allow_unused=True)
        assert any(g is not None and g.abs().max() > 0 for g in grads), name


@pytest.mark.parametrize(("name", "encoder"), ONE)
def test_loss_falls_in_60_adam_steps(built):
    batch = batch_of(built)
    if any("queue" in name for name, _ in built.named_buffers()):
        run(built, batch, steps=20, lr=0.0)  # random keys are easier than real ones
    losses = running(built, batch, steps=61)
    first = next(losses)
    assert any(loss < first - 0.05 * abs(first) for loss in losses)


@pytest.mark.parametrize(("name", "encoder"), ONE)
def test_sample_order_does_not_matter(built):
    batch = batch_of(built)
    turned = tree_map(lambda value: value.flip(0), batch)
    built.eval()
    losses = []
    for each in (batch, turned):
        torch.manual_seed(0)
        with torch.no_grad():
            losses.append(built.step(each).loss)
    torch.testing.assert_close(*losses, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "encoder"), ONE)
def test_step_changes_no_lasting_state(built):
    before = {k: v.clone() for k, v in built.eval().state_dict().items()}
    with torch.no_grad():
        built.step(batch_of(built))
    moved = [k for k, v in built.state_dict().items() if not torch.equal(v, before[k])]
    # Batch norms of teachers follow every forward; nothing reads their running statistics.
    assert [k for k in moved if "running_" not in k and "num_batches" not in k] == []


@pytest.mark.parametrize(("name", "encoder"), ONE)
def test_batch_of_one_works_or_is_refused_with_a_way_out(name, built):
    try:
        loss = built.step(batch_of(built, 1)).loss
    except ConfigError as refusal:
        assert NO_BATCH_OF_ONE.get(name, "not listed") in refusal.what
        assert refusal.fix
        return
    assert torch.isfinite(loss)
    assert name not in NO_BATCH_OF_ONE


@pytest.mark.parametrize(("name", "encoder"), ONE)
def test_state_dict_round_trip(name, encoder, built):
    batch = batch_of(built)
    run(built, batch, steps=2)
    other = make(name, encoder)
    other.load_state_dict(built.state_dict(), strict=True)
    with torch.no_grad():
        losses = []
        for task in (built, other):
            torch.manual_seed(0)
            losses.append(task.eval().step(batch).loss)
    assert torch.equal(*losses)


@pytest.mark.parametrize(("name", "encoder"), TWO)
def test_every_weight_in_one_group_and_vectors_undecayed(built):
    optimizer = build_optimizer(built.param_groups(), OptimConfig())
    grouped = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(p) for p in built.parameters() if p.requires_grad}
    for group in optimizer.param_groups:
        assert all(p.ndim > 1 for p in group["params"]) or not group["weight_decay"]


def _only_the_loss_in_half(task):
    """Layers compute in float32 whatever autocast says, so that embeddings are the same."""
    for module in task.modules():
        if isinstance(module, Encoder) or (module is not task and list(module.parameters(False))):
            module.forward = torch.autocast("cpu", enabled=False)(module.forward)
    return task


@pytest.mark.parametrize(("name", "encoder"), ONE)
def test_loss_on_the_same_embeddings_under_autocast(built):
    task, batch = _only_the_loss_in_half(built.eval()), batch_of(built)
    losses = []
    for half in (False, True):
        torch.manual_seed(0)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=half):
            losses.append(float(task.step(batch).loss))
    assert losses[1] == pytest.approx(losses[0], rel=1e-2, abs=1e-4)


@pytest.mark.parametrize(("name", "encoder"), ONE)
def test_trains_under_bfloat16(built):
    # Without oneDNN: on processors with AMX its kernel of a convolution with stride 2 reads memory
    # that nobody wrote where a map has 2 x 4 x 2 voxels (torch 2.15).
    off = torch.backends.mkldnn.flags(enabled=False)
    with off, torch.autocast("cpu", torch.bfloat16):
        output = built.step(batch_of(built))
    assert output.loss.dtype == torch.float32
    output.loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in built.parameters() if p.grad is not None)


def _certain(spec):
    """The spec with every change of grey values and place happening for sure."""

    def sure(view):
        ops = {"probability": 1.0, "noise_probability": 1.0}
        intensity = view.intensity
        if intensity.probability or intensity.noise_probability:
            intensity = intensity.model_copy(update=ops)
        spatial = view.spatial.model_copy(update={"probability": 1.0})
        return view.model_copy(update={"intensity": intensity, "spatial": spatial})

    return spec.model_copy(update={"views": tuple(sure(view) for view in spec.views)})


@pytest.mark.parametrize("encoder", ["resenc-xs", "timm/resnet18"])
@pytest.mark.parametrize("name", NAMES)
def test_augmented_views_differ_from_the_record_and_from_each_other(built):
    spec = _certain(built.views())
    shown = _of_tissue(spec, batch_of(built, samples=4, spec=spec))
    for kind, view in shown:
        for number in range(4):
            x, place = view["x"][number, 0], view["place"][number].numpy()
            if kind.intensity != type(kind.intensity)():
                axes = 3 if spec.partitions else len(kind.crop)
                assert not set(x.flatten().tolist()) <= _values(number, axes)
            if kind.spatial.rotate_deg or kind.spatial.scale != (1.0, 1.0):
                assert abs(abs(place[:, :3]) - abs(place[:, :3]).round()).max() > 1e-6
    seen = [x.tobytes() for _, view in shown for x in view["x"].numpy()]
    assert len(set(seen)) == len(seen)


def _of_tissue(spec, batch):
    """Views with their kind; not base crops, the outer ones of which may hold padding alone."""
    kinds = [view for view in spec.views for _ in range(view.count * prod(view.tiles))]
    times = max(spec.partitions, 1) * (2 if spec.partner else 1)
    pairs = zip(kinds * times, batch["views"], strict=True)
    return [(kind, view) for kind, view in pairs if not kind.tiles]


def _values(record, axes):
    shape = SHAPES["volume" if axes == 3 else "image"]
    return {*phantom(record, shape).flatten().tolist(), -2.0}


@pytest.mark.parametrize("encoder", ["resenc-xs", "timm/resnet18"])
@pytest.mark.parametrize("name", NAMES)
def test_no_sample_is_empty(built):
    batch = batch_of(built, samples=2 * RECORDS)
    for _, view in _of_tissue(built.views(), batch):
        assert (view["x"].flatten(1).std(1) > 0).all()
        assert view["tissue"].flatten(1).any(1).all()
    assert all(torch.isfinite(leaf).all() for leaf in tree_leaves(batch) if torch.is_tensor(leaf))


@pytest.mark.parametrize("name", NAMES)
def test_has_a_config_that_loads(name):
    assert (config_root() / "pretrain" / f"{name}.yaml").is_file()
    given = {"data": "d", "out": "o"}
    config = load_config(PretrainConfig, "pretrain", name, given)
    assert config.objective.name == name
    for part, registry in ((config.objective, OBJECTIVES), (config.encoder, ENCODERS)):
        module, _ = registry.module(part.name)
        validate(module.Config, part.options, where=part.name)
