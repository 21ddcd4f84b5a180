"""Every option of every objective changes something: views, weights, loss, state or schedule."""

import hashlib
import types
from enum import Enum
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Literal, Union, get_args, get_origin

import pytest
import torch
from pydantic import BaseModel

from medssl.core.config import Component, validate
from medssl.core.errors import ConfigError
from medssl.core.registry import OBJECTIVES
from tests.objectives.tiny import batch_of, config_of, encoders_of, make, passes, run

NAMES = OBJECTIVES.names()
STEPS = 2
# Shares of all steps, which two steps do not tell apart; see test_dino.py, once per share.
# A teacher's run: see test_supervoxel.py, test_self_distill.py.
# Its embedding's run: test_alice.py. Bending, which is refused: test_anatomy.py, test_glare.py.
ELSEWHERE = {
    ("dino", "gram_at"), ("supervoxel", "teacher"), ("self_distill", "teacher"),
    ("alice", "embedding"), ("anatomy", "views.spatial.elastic_mm"),
    ("glare", "views.spatial.elastic_mm"),
}  # fmt: skip


def options(config, prefix=()):
    """Paths of all options, those of nested configs included."""
    for key, value in config:
        if isinstance(value, BaseModel) and not isinstance(value, Component):
            yield from options(value, (*prefix, key))
        else:
            yield (*prefix, key)


def candidates(annotation, value):
    """Other values to try for an option, likeliest first."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return candidates(get_args(annotation)[0], value)
    if origin in {Union, types.UnionType}:
        found = [other for kind in get_args(annotation) for other in candidates(kind, value)]
        return [other for other in found if other != value] + ([] if value is None else [None])
    if annotation in {type(None), Component, Path}:
        return []
    if origin is Literal:
        return [other for other in get_args(annotation) if other != value]
    if annotation is bool:
        return [True, False] if value is None else [not value]
    if origin is tuple:
        return _tuples(annotation, value)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        needed = {k: f for k, f in annotation.model_fields.items() if f.is_required()}
        return [annotation(**{k: candidates(f.annotation, None)[0] for k, f in needed.items()})]
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [other for other in annotation if other != value]
    if annotation is int:
        start = value or 0
        return [start + 1, 2, 1, start * 2, max(start - 1, 0), start // 2, 32, 96]
    assert annotation is float, annotation
    start = value or 0.0
    return [start / 2, start * 1.5, 1 - start, 0.5, 0.25, 0.05, 1.0, 2.0, 10.0]


def _tuples(annotation, value):
    kinds = get_args(annotation)
    if value is None:
        length = 2 if len(kinds) == 2 and kinds[1] is ... else len(kinds)
        return [(0.1,) * length, (0.5,) * length, (1,) * length]
    halves = tuple(type(v)(v / 2) for v in value)
    return [halves, tuple(v * 2 for v in value), (*value[:-1], value[-1] + type(value[-1])(1)),
            (value[0] / 2, *value[1:]), (0.3, 0.6), (0.5, 0.9), value[:-1]]  # fmt: skip


def changed(config, path, value):
    """The config with one option set; ConfigError or ValueError where it is refused."""
    values = config.model_dump()
    inner = values
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return validate(type(config), values, where=".".join(path))


def value_at(config, path):
    for key in path:
        config = getattr(config, key)
    return config


def field_of(config, path):
    for key in path[:-1]:
        config = getattr(config, key)
    return type(config).model_fields[path[-1]]


@cache
def trace(name, encoder, json):
    """Hash of what a short training does: views, weights, losses, state, what is held back."""
    module, _ = OBJECTIVES.module(name)
    task = make(name, encoder, module.Config.model_validate_json(json)).train()
    told = [task.views().model_dump_json(), [n for n, p in task.named_parameters()]]
    told += [[group.lr_scale, sorted(group.params)] for group in task.param_groups()]
    told += [task.prepare_at(step) for step in range(2000)]
    if task.prepare_at(0):
        task.prepare(lambda: passes(task))
    torch.manual_seed(0)
    told.append(run(task, batch_of(task), STEPS))
    for progress in (0.05, 0.9):
        task.step(batch_of(task)).loss.backward()
        task.before_update(progress)
        told.append([n for n, p in task.named_parameters() if p.grad is None])
        task.zero_grad()
        task.after_update(progress)
    told.append(
        [(k, tuple(v.shape), float(v.double().sum())) for k, v in task.state_dict().items()]
    )
    return hashlib.sha256(repr(told).encode()).hexdigest()


def spec_of(name, encoder, config):
    return make(name, encoder, config).views()


def variants(config, path):
    """Configs that differ in one option, in the order of :func:`candidates`."""
    field, value = field_of(config, path), value_at(config, path)
    for other in candidates(field.annotation, value):
        if other == value:
            continue
        try:
            yield changed(config, path, other)
        except (ConfigError, ValueError, TypeError):
            continue


def matters(name, config, path):
    """Whether some other value of the option changes a training."""
    for encoder in encoders_of(name):  # an option that only one of them knows is found with it
        tried = 0
        for other in variants(config, path):
            try:
                if spec_of(name, encoder, other) != spec_of(name, encoder, config):
                    return True
                if trace(name, encoder, other.model_dump_json()) != trace(
                    name, encoder, config.model_dump_json()
                ):
                    return True
            except ConfigError:
                continue
            tried += 1
            if tried >= 3:
                break
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_option_changes_something(name):
    config = config_of(name)
    idle = [path for path in options(config) if not matters(name, config, path)]
    # Options of a part that is off by default matter where a switch puts it on.
    own = [path for path in options(config) if path[0] != "views"]
    switches = [path for path in own if is_switch(value_at(config, path))]
    still = []
    for path in idle:
        others = (o for s in switches if s != path for o in islice(variants(config, s), 2))
        known = (name, ".".join(path)) in ELSEWHERE
        if not known and not any(matters(name, other, path) for other in others):
            still.append(".".join(path))
    assert still == []


def is_switch(value):
    return isinstance(value, str) or not value


@pytest.mark.parametrize("name", NAMES)
def test_the_trace_repeats(name):
    json, encoder = config_of(name).model_dump_json(), encoders_of(name)[0]
    assert trace(name, encoder, json) == trace.__wrapped__(name, encoder, json)
