"""A plan but for its micro-batch and steps: the rules, applied to the records of a catalog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medssl.archive.catalog import Catalog
from medssl.core.config import Component, validate
from medssl.core.sample import Record
from medssl.core.viewspec import ViewSpec
from medssl.encoders._base import Encoder, build_encoder, in_mm
from medssl.stages import _plan_rules as rules
from medssl.stages import _train
from medssl.stages._crop import crop_of, tiles_of, views_asked
from medssl.stages._plan_count import Count, count
from medssl.stages._plan_facts import Facts, Machine, candidates, fingerprint, prepared_grid
from medssl.stages._plan_rules import Choice, Choices, as_config
from medssl.stages._records import select
from medssl.stages.pretrain import PretrainConfig

if TYPE_CHECKING:
    from medssl.stages.plan import PlanConfig

# Share of the memory that a step may fill.
MEMORY_SHARE = 0.8
_SPLITS = ("train",)


@dataclass(frozen=True)
class Draft:
    """Options, and what they mean for the records.

    Attributes:
        views: what the objective asks for.
        values: numbers that the store will hold.
        micro_batch: the largest that fits, by counting.
    """

    facts: Facts
    chosen: Choices
    records: list[Record]
    excluded: Counter[str]
    views: ViewSpec
    values: int
    count: Count
    micro_batch: int

    @property
    def batch_size(self) -> int:
        return int(self.chosen["batch_size"].value)

    @property
    def embedding(self) -> Path | None:
        """Run whose embeddings of all records find their partners."""
        partner = self.views.partner
        return partner.embedding if partner and partner.kind == "anatomy" else None

    def config(self, **more: Any) -> PretrainConfig:
        """Of ``pretrain``, with more options."""
        return _as_config(self.chosen, more)


def draft(config: PlanConfig, catalog: Catalog, machine: Machine) -> Draft:
    """With the first objective whose whole batch fits at once, or the last one.

    Raises:
        NothingUsableError: no record to learn from; says why.
        ConfigError: an objective or encoder that there is not, or that do not fit.
    """
    records = catalog.records(where=config.where)
    found = candidates(records, _SPLITS)
    if not found:  # the selection of pretrain says why
        select(records, _as_config({}, {}), channels=1, kind="image", splits=_SPLITS)
    facts = fingerprint(found)
    for objective in _objectives(config, facts, machine):
        made = _draft(config, records, facts, machine, objective)
        if made.micro_batch == made.batch_size:
            break
    return made


def _objectives(config: PlanConfig, facts: Facts, machine: Machine) -> list[Choice]:
    if config.objective:
        return [Choice(config.objective, "asked for")]
    flat = facts.kind == "image" or bool(rules.sliced(facts))
    if config.encoder and facts.kind != "clip":
        flat = "/" in config.encoder.name  # a library's; those are for images
    found = rules.objectives(facts, machine, flat=flat)
    return [Choice(Component(name=name), why) for name, why in found]


def _draft(
    config: PlanConfig,
    records: Sequence[Record],
    facts: Facts,
    machine: Machine,
    objective: Choice,
) -> Draft:
    name = objective.value.name
    encoder = rules.encoder(facts, machine, name)
    if config.encoder:
        encoder = Choice(rules.plain(config.encoder), "asked for")
    chosen: Choices = {
        "objective": Choice(rules.with_recipe(objective.value), objective.why),
        "encoder": encoder,
        **rules.input_of(facts),
        **rules.recipe(facts, name),
        **rules.hardware(machine),
    }
    if config.where:
        chosen["where"] = Choice(config.where, "asked for")
    options = _as_config(chosen, {})
    part = in_mm(options.encoder, options.spacing_mm)
    network = build_encoder(part.name, part.options, options.channels)
    if not network.layers:  # and so no rate per layer
        chosen.pop("layer_decay", None)
    planned = [one for one in records if facts.kind == "clip" or one.kind != "clip"]
    usable, excluded = select(
        planned, options, channels=options.channels, kind=network.kind, splits=_SPLITS
    )
    contract = _train.contract_of(options, options.channels, options.fps)
    grids = [prepared_grid(one, contract) for one in usable]
    crop = crop_of(options, network, grids)
    spec = views_asked(options, network, crop, len(usable))
    chosen["crop"] = Choice(list(crop), _why_so_large(spec, network))
    counted = count(_as_config(chosen, {}), network, spec)
    micro_batch = counted.largest(options.batch_size, MEMORY_SHARE * machine.device_bytes)
    values = sum(grid.values for grid in grids)
    return Draft(facts, chosen, usable, excluded, spec, values, counted, micro_batch)


def _why_so_large(spec: ViewSpec, network: Encoder) -> str:
    steps = " x ".join(map(str, network.size_multiple))
    tiles = " x ".join(map(str, tiles_of(spec)))
    size = (
        f"so that {tiles} side by side fit in the median record" if tiles else "the median record"
    )
    return f"{size}, in steps of {steps} that the encoder can take, up to a cap"


def _as_config(chosen: Mapping[str, Choice], more: Mapping[str, Any]) -> PretrainConfig:
    values = {"data": ".", "out": ".", **as_config(chosen), **more}
    return validate(PretrainConfig, values, where="plan")
