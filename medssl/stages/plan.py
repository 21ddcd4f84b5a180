"""``medssl plan``: options of ``pretrain`` for a catalog and this machine, each with its reason."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

from pydantic import Field

from medssl.archive.catalog import Catalog
from medssl.core.config import Component, Config
from medssl.core.errors import ResourceError, UsageError
from medssl.core.runlog import Run, write_text
from medssl.stages import _plan_rules as rules
from medssl.stages._plan_count import embedding_bytes
from medssl.stages._plan_draft import MEMORY_SHARE, Draft, draft
from medssl.stages._plan_facts import Machine, this_machine
from medssl.stages._plan_page import TITLE, Estimate, as_yaml, command, head, in_words
from medssl.stages._plan_rules import GB, Choices, as_config
from medssl.stages._plan_trial import fill, try_out
from medssl.training.checkpoint import KEPT

# Share of the free disk that a plan may fill.
DISK_SHARE = 0.9
# Processes that fill the store, at most.
_STORE_PROCESSES = 8
# Without a trial: bytes of a stored number, and of a weight in a checkpoint.
_STORED_BYTES, _SAVED_BYTES = 2, 12
_ENDINGS = {".yaml", ".yml"}


class PlanConfig(Config):
    """Options of ``medssl plan``."""

    catalog: Path
    out: Path
    """The plan: a YAML file for ``medssl pretrain --config``."""
    where: str | None = None
    """Records to use, e.g. ``modality == 'MR'``; becomes part of the plan."""
    objective: Component | None = None
    """Plan for this one; default: by the kind and number of records."""
    encoder: Component | None = None
    """Plan for this one; default: by the kind of data and the machine."""
    hours: float = Field(default=24.0, gt=0)
    """Longest time of the run: it limits the steps."""
    measure: bool = True
    """Prepare a few records and try a few steps on them; otherwise memory is a rule of thumb and
    time is not known."""
    overwrite: bool = False
    quiet: bool = False


def run(config: PlanConfig) -> Run:
    """Write the plan; ``Run.result`` holds its options and estimates.

    Raises:
        UsageError: no catalog, or the plan exists.
        NothingUsableError: no record to learn from; says why.
        ResourceError: memory or disk of this machine, or the hours given, are too small.
    """
    _check_output(config)
    catalog = Catalog.open(config.catalog)
    machine = this_machine(catalog.folder)
    made = draft(config, catalog, machine)
    limit = MEMORY_SHARE * machine.device_bytes
    if config.measure:
        micro_batch, estimate = _tried_out(made, catalog, machine, limit)
    else:
        micro_batch, estimate = _counted(made, limit)
    _check_disk(estimate, machine)
    check_every = made.config().check_every
    affordable = estimate.affordable_steps(config.hours, check_every)
    if affordable < 1:
        raise _too_short(config.hours, estimate.hours(1, check_every) or 0.0)
    chosen = {
        **made.chosen,
        **rules.accumulate(made.batch_size, micro_batch),
        **rules.steps(made.facts, made.batch_size, affordable),
    }
    hours = estimate.hours(chosen["steps"].value, check_every)
    lines = head(made.facts, machine, made.excluded, estimate, hours)
    write_text(config.out, as_yaml(lines, chosen))
    run = Run("plan", config.out)
    run.result = {
        "records": len(made.records),
        "excluded": dict(made.excluded),
        **_as_result(chosen, estimate, hours),
        "expected": lines["Expected"],
        "next": command(str(config.catalog), str(config.out)),
    }
    return run


def _as_result(chosen: Choices, estimate: Estimate, hours: float | None) -> dict[str, object]:
    return {
        "options": as_config(chosen),
        "why": {key: choice.why for key, choice in chosen.items() if choice.why},
        "memory_bytes": round(estimate.memory_bytes),
        "store_bytes": round(estimate.store_bytes),
        "run_bytes": round(estimate.run_bytes),
        "step_s": estimate.step_s,
        "hours": hours,
    }


def _tried_out(
    made: Draft, catalog: Catalog, machine: Machine, limit: float
) -> tuple[int, Estimate]:
    """The largest micro-batch whose trial fits, and what it took."""
    with tempfile.TemporaryDirectory(prefix="medssl-plan-") as name:
        private = Path(name)
        store = private / "store"
        prepared = fill(catalog, made.records, made.config(store=store), made.views)
        for parts in _parts(made):
            config = made.config(store=store, accumulate=parts, out=private / f"trial{parts}")
            trial = try_out(catalog, config, prepared.ids)
            if trial and trial.memory_bytes <= limit:
                break
        else:
            raise _too_large(limit)
    # One process prepares the records of the trial, several those of a run; one embeds.
    store_s = prepared.s / min(machine.cpus, _STORE_PROCESSES) + trial.embeddings_s
    times = made.values / prepared.values
    return made.batch_size // parts, Estimate(
        memory_bytes=trial.memory_bytes,
        store_bytes=times * (prepared.bytes + trial.embeddings_bytes),
        run_bytes=trial.run_bytes,
        store_s=times * store_s,
        step_s=trial.step_s,
        check_s=trial.check_s,
        how=f"measured here on {len(prepared.ids)} records and {trial.steps} steps",
    )


def _counted(made: Draft, limit: float) -> tuple[int, Estimate]:
    """Micro-batch and estimate without a trial."""
    memory_bytes = made.count.step(made.micro_batch)
    if memory_bytes > limit:
        raise _too_large(limit)
    store_bytes = float(_STORED_BYTES * made.values)
    if made.embedding:
        store_bytes += embedding_bytes(made.embedding, made.values // made.config().channels)
    return made.micro_batch, Estimate(
        memory_bytes=memory_bytes,
        store_bytes=store_bytes,
        run_bytes=_SAVED_BYTES * (KEPT + 1) * made.count.parameters,
        store_s=0.0,
        step_s=None,
        check_s=0.0,
        how="by rule of thumb: nothing was measured",
    )


def _parts(made: Draft) -> list[int]:
    """Numbers of micro-batches to try, fewest first."""
    first = made.batch_size // made.micro_batch
    return [n for n in range(first, made.batch_size + 1) if made.batch_size % n == 0]


def _too_large(limit: float) -> ResourceError:
    what = f"one sample per step does not fit in {limit / GB:.1f} GB, {MEMORY_SHARE:.0%} of memory"
    fix = "choose a smaller encoder, e.g. encoder=resenc-xs, or encoder.gradient_checkpointing=true"
    return ResourceError(what, fix=fix)


def _too_short(hours: float, needed: float) -> ResourceError:
    what = f"preparing the records and one step take {in_words(needed)}, of {in_words(hours)} given"
    least = math.ceil(10 * needed) / 10
    return ResourceError(what, fix=f"--hours {least:g} at least, or fewer records with --where")


def _check_disk(estimate: Estimate, machine: Machine) -> None:
    needed = estimate.store_bytes + estimate.run_bytes
    if machine.disk_bytes is not None and needed > DISK_SHARE * machine.disk_bytes:
        free = f"{machine.disk_bytes / GB:.1f} GB are free"
        what = f"store and run need about {needed / GB:.1f} GB on the catalog's disk, {free}"
        raise ResourceError(what, fix="free disk space, or choose records with --where")


def _check_output(config: PlanConfig) -> None:
    """Refuse a name that ``pretrain`` would not take, and a file that is no plan."""
    out = config.out
    if out.suffix not in _ENDINGS:
        raise UsageError(
            "a plan is a .yaml file", where=str(out), fix=f"{out.with_suffix('.yaml')}"
        )
    if not out.parent.is_dir():
        raise UsageError("the folder of the plan does not exist", where=str(out.parent))
    if not out.exists():
        return
    if not config.overwrite:
        fix = "choose another --out, or --overwrite"
        raise UsageError("the plan exists already", where=str(out), fix=fix)
    if not out.is_file() or not out.read_text(encoding="utf-8").startswith(TITLE):
        fix = "delete it yourself or choose another --out"
        raise UsageError("the file was not written by medssl plan", where=str(out), fix=fix)
