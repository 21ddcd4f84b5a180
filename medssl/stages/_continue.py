"""Go on from where another run stopped, with other data: weights, optimiser, averages, step."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medssl.core.config import validate
from medssl.core.errors import UsageError
from medssl.core.registry import ENCODERS, OBJECTIVES
from medssl.encoders._base import in_mm
from medssl.stages._init import frozen_weights
from medssl.stages._shown import refuse_hidden, with_defaults
from medssl.training.checkpoint import load_newest
from medssl.training.loop import Loop
from medssl.training.optim import OptimConfig, phases_of

if TYPE_CHECKING:
    from medssl.stages.pretrain import PretrainConfig

# What the two runs share; options of the second one that are not given are those of the first.
_SHARED = (
    "objective", "encoder", "channels", "crop", "spacing_mm", "size_px", "match_channels",
    "fps", "clip",
    "batch_size", "ema_decay", "precision",
    *(key for key in OptimConfig.model_fields if key not in ("anneal", "final_share")),
)  # fmt: skip


@dataclass(frozen=True)
class Source:
    """The newest checkpoint of the run that is gone on from.

    Attributes:
        digest: its hash.
    """

    state: dict[str, Any]
    digest: str

    def start(self, loop: Loop) -> None:
        """Bring the state into a loop that has not begun.

        Raises:
            UsageError: the objective keeps something for each record of the other data, or learns
                from another teacher than that run.
        """
        own = loop.bare.state_dict()
        given = self.state["task"]
        wrong = [k for k in own if k not in given or own[k].shape != given[k].shape]
        if wrong:
            what = f"the state of that run does not fit these data ({wrong[0]})"
            raise UsageError(what, fix="give that run as --init: its weights alone")
        if any(not own[key].cpu().equal(given[key].cpu()) for key in frozen_weights(loop.bare)):
            what = "objective.teacher is another one than that run learnt from"
            raise UsageError(what, fix="name that run's teacher, or give that run as --init")
        loop.restore(self.state)
        loop.bare.forget_records()


def recipe(config: PretrainConfig, crop: tuple[int, ...] | None) -> str:
    """What a later run has to share to go on from this one, and until where its rate is constant.

    Kept in checkpoints; no path is in it.
    """
    values = config.model_dump(mode="json", include=set(_SHARED))
    encoder = with_defaults(in_mm(config.encoder, config.spacing_mm), ENCODERS)
    encoder.pop("weights", None)  # what they became is in the checkpoint
    values |= {"objective": with_defaults(config.objective, OBJECTIVES), "encoder": encoder}
    values |= {"crop": list(crop) if crop else None}
    if config.schedule == "infinite":
        values["constant_until"] = phases_of(config, config.steps).anneal
    return json.dumps(values)


def go_on(config: PretrainConfig) -> tuple[PretrainConfig, Source | None]:
    """The config with the options of the run that it goes on from, and that run's state.

    Raises:
        UsageError: no checkpoint, a rate that has fallen, other options, a run missing that it
            learns from, no step left to do, or too few for the annealing.
    """
    if config.continue_from is None:
        return config, None
    where = str(config.continue_from)
    found = load_newest(config.continue_from / "checkpoints")
    if found is None or "recipe" not in found[0]:
        fix = "give the folder of a run of pretrain with its checkpoints"
        raise UsageError("nothing to go on from: no checkpoint", where=where, fix=fix)
    state, digest = found
    kept = json.loads(state["recipe"])
    _refuse_a_fallen_rate(kept, state["step"], where)
    missing = {key: kept[key] for key in _SHARED if key not in config.model_fields_set}
    values = {**config.model_dump(exclude_unset=True), **missing}
    refuse_hidden(missing.get("objective", {}))
    config = validate(type(config), values, where="the run that is gone on from")
    asked = json.loads(recipe(config, config.crop))
    others = sorted(key for key in _SHARED if asked[key] != kept[key])
    if others:
        fix = "leave them out, or give that run as --init: its weights alone"
        raise UsageError(f"other options than those of that run: {', '.join(others)}", fix=fix)
    if config.steps <= state["step"]:
        what = f"steps={config.steps}, but that run has done {state['step']}, which count"
        raise UsageError(what, fix=f"e.g. steps={2 * state['step']}")
    if config.steps - config.anneal < state["step"]:
        what = f"annealing for {config.anneal} steps would have begun before step {state['step']}"
        fix = f"steps={state['step'] + config.anneal} or more, or a shorter anneal"
        raise UsageError(what, fix=fix)
    return config, Source(state, digest)


def _refuse_a_fallen_rate(kept: dict[str, Any], step: int, where: str) -> None:
    fix = "give it as --init: its weights alone"
    if kept["schedule"] != "infinite":
        what = "that run's rate falls along a cosine: there is no constant rate to go on with"
        raise UsageError(what, where=where, fix=f"{fix}; next time schedule=infinite")
    if step > kept["constant_until"]:
        fix = f"go on from the run that it was annealed from, or {fix}"
        raise UsageError("that run was annealed: its rate has fallen", where=where, fix=fix)
