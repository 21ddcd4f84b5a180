"""Every objective on small encoders and phantoms, as the contract tests need it.

    task = make("dino", "vit3d-xs", center="sinkhorn")
    batch = batch_of(task, samples=4)

Wide heads, long queues and many prototypes are narrowed: see :func:`narrow`.
"""

import copy
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from pydantic import BaseModel
from torch.utils.data import default_collate

from medssl.archive.store import tissue_box
from medssl.core.config import validate
from medssl.core.errors import ConfigError
from medssl.core.registry import OBJECTIVES
from medssl.core.seeding import generator, seed_everything
from medssl.core.viewspec import Setting
from medssl.encoders._base import build_encoder
from medssl.views.matching import BodyMatcher
from medssl.views.sample import build_sample
from medssl.views.source import Source
from tests.objectives.teachers import teacher_run

# Name -> crop and options. Two of each kind: with and without tokens.
ENCODERS = {
    "resenc-xs": ((16, 32, 16), {}),
    "vit3d-xs": ((16, 32, 16), {"token_size": (4, 8, 8)}),
    "timm/resnet18": ((32, 32), {"token_size": 4, "output_stride": 8}),
    "timm/vit_tiny_patch16_224": ((24, 24), {"patch_size": 4}),
    "video_vit-xs": ((4, 16, 16), {"token_size": (2, 4, 4)}),
}
VOLUME, TOKENS, CLIPS = "resenc-xs", "vit3d-xs", "video_vit-xs"
_PAIRS = ((TOKENS, VOLUME), ("timm/resnet18", "timm/vit_tiny_patch16_224"), (CLIPS,))
RECORDS = 8
SHAPES = {"image": (1, 44, 48), "volume": (22, 40, 24), "clip": (24, 32, 28)}
FPS = 15
# As many clusters as records are found at once, whatever the options; a queue counts once full.
_FEW = {
    "deepcluster": {"clusters": 4, "iterations": 1},
    "local_global": {"global_share": 0.0, "local_share": 0.0},  # all weights learn in each step
    "swav": {"queue": 4},
    "image_volume": {"queue": 4, "slices": 4},
    "voco": {"crops": 2},
    "supervoxel": {"segments": 16},
    "alice": {"threshold": -1.0},  # phantoms of two patients are little alike
}
# Objective -> its quickest encoder, where that is not the one of few tokens.
_QUICKEST = {
    "alice": VOLUME, "local_global": VOLUME, "image_volume": "timm/resnet18",
    "discovr": CLIPS, "videomae": CLIPS, "vjepa": CLIPS,
    "clip_order": CLIPS, "speed": CLIPS,
}  # fmt: skip
# Their teacher has the encoder of the student.
_OWN_KIND = {"self_distill"}
# Integers from here on are widths, queues and numbers of prototypes.
_WIDE, _NARROW = 128, 64


def narrow(config):
    """The config with wide things narrowed, nested ones included; narrowing may be refused."""
    changes = {}
    for key, value in config:
        if isinstance(value, BaseModel):
            changes[key] = narrow(value)
        elif isinstance(value, int) and value >= _WIDE:
            changes[key] = _NARROW
    return config.model_copy(update=changes)


def config_of(name, **options):
    """The narrowed config of an objective with some options set."""
    module, _ = OBJECTIVES.module(name)
    taught = {"teacher": teacher_run()} if "teacher" in module.Config.model_fields else {}
    few = {**taught, **_FEW.get(name, {})}
    values = {**narrow(module.Config()).model_dump(), **few, **options}
    return validate(module.Config, values, where=name)


def make(name, encoder, config=None, **options):
    """A fresh objective; ConfigError where it refuses the encoder."""
    crop, _ = ENCODERS[encoder]
    module, _ = OBJECTIVES.module(name)
    config = config or config_of(name, **options)
    if name in _OWN_KIND:
        run = teacher_run(encoder, seed=1, **ENCODERS[encoder][1])
        config = config.model_copy(update={"teacher": Path(run)})
    net = copy.deepcopy(_encoder(encoder))
    seed_everything(1)
    return module.Objective(net, config, Setting(crop=crop, records=RECORDS, kind=net.kind))


@cache
def _encoder(name):
    seed_everything(0)
    return build_encoder(name, ENCODERS[name][1], 1)


def quickest(name):
    """The encoder for what is true on every one."""
    return _QUICKEST.get(name, TOKENS)


@cache
def encoders_of(name):
    """Two encoders, one with tokens: of volumes, or of images or clips where those are refused.

    The first is the quickest one.
    """
    for pair in _PAIRS:
        try:
            make(name, pair[0])
        except ConfigError:
            continue
        return tuple(sorted(pair, key=lambda encoder: encoder != quickest(name)))
    raise AssertionError(name)


def ready(task):
    """Run the whole-data pass that the task wants before its first step."""
    if task.prepare_at(0):
        task.prepare(partial(passes, task))
    return task


def passes(task, size=4):
    """Every record once, in order, as the stage gives it."""
    for first in range(0, RECORDS, size):
        yield batch_of(task, size, first=first, purpose="pass")


def batch_of(task, samples=4, *, first=0, purpose="view", spec=None):
    """Views of ``samples`` phantoms."""
    spec = spec or task.views()
    return default_collate(
        [sample_of(spec, number, generator(0, purpose, number)) for number in
         range(first, first + samples)]
    )  # fmt: skip


def sample_of(spec, number, rng):
    """One sample of a record, as :mod:`medssl.core.viewspec` lays it out."""
    flat = len(spec.views[0].crop) == 2
    slices = spec.partitions or spec.stack or (spec.partner and spec.partner.kind == "neighbour")
    kind = "clip" if spec.clip else "image" if flat and not slices else "volume"
    phantoms = Phantoms(kind, mixed=spec.stack is not None)
    matcher = BodyMatcher(spec, phantoms)
    return {**build_sample(spec, rng, phantoms, number % RECORDS, matcher), "replaced": 0.0}


class Phantoms:
    """Records as the views see them: pictures, volumes or clips, two of each patient."""

    def __init__(self, kind, *, mixed=False):
        self.kind = kind
        self.patients = self.studies = np.arange(RECORDS) // 2
        self.pictures = np.full(RECORDS, kind == "image")
        if mixed:
            self.pictures[1::4] = True

    def source(self, record):
        return source(record, "image" if self.pictures[record] else self.kind)


@cache
def source(record, kind):
    """A phantom: a bright ellipsoid with a core on a smooth field, in air."""
    shape = SHAPES[kind]
    volume = phantom(record, shape)
    time = {}
    if kind == "clip":
        time = {"times_s": np.arange(shape[0]) / FPS, "shots": np.array([[0, shape[0]]])}

    def read(start, stop):
        d, h, w = (slice(a, b) for a, b in zip(start, stop, strict=True))
        return volume[:, d, h, w]

    return Source(
        read=read, shape_DHW=shape, spacing_mm=(1.0, 1.0, 1.0), air=(-1.5,), fill=(-2.0,),
        modality="MR", tissue=tissue_box(volume, (-1.5,)), kind=kind, **time,
    )  # fmt: skip


@cache
def phantom(record, shape):
    """(1, D, H, W) float32, different for each record."""
    rng = np.random.default_rng(record)
    place = np.indices(shape).reshape(3, -1).T / np.array(shape)
    centre, axes = rng.uniform(0.35, 0.65, 3), rng.uniform(0.25, 0.6, 3)
    if shape[0] == 1:
        centre[0], axes[0] = 0, 1
    far = np.sqrt((((place - centre) / axes) ** 2).sum(1)).reshape(shape)
    wave = np.sin(place @ rng.uniform(-12, 12, 3) + rng.uniform(0, 6)).reshape(shape)
    x = np.where(far < 1, 0.5 * wave + rng.uniform(0.5, 1.5) * (far < 0.5), -2.0)
    return (x + rng.normal(0, 0.1, shape))[None].astype(np.float32)


def run(task, batch, steps=3, lr=1e-3, *, start=0, total=None):
    """Train as the loop does, from step ``start`` of ``total``; returns the losses."""
    return list(running(task, batch, steps, lr, start=start, total=total))


def running(task, batch, steps, lr=1e-3, *, start=0, total=None):
    """As :func:`run`, one loss after the other: who has seen enough may stop."""
    weights = [p for p in task.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(weights, lr)
    total = total or start + steps
    for step in range(start, start + steps):
        if task.prepare_at(step):
            task.prepare(partial(passes, task))
        loss = task.step(batch).loss
        loss.backward()
        task.before_update(step / total)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        task.after_update((step + 1) / total)
        yield float(loss.detach())
