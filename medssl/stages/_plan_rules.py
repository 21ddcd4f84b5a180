"""The decisions of a plan: from facts and machine to options of ``pretrain``, each with its reason.

The rules stand in docs/plan.md as a table; change both together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from medssl.core.config import Component, read_yaml
from medssl.core.preprocess import SPACING_TOLERANCE
from medssl.core.registry import OBJECTIVES
from medssl.stages._data import MAX_AUTO_CLIP
from medssl.stages._plan_facts import Facts, Machine
from medssl.stages._train import CLIP_FPS, SHORT_SIDE_PX

GB = 1e9
# Thick slices get flat tokens; very thick ones, or very few, are learnt from one by one.
THICK, VERY_THICK, FEW_SLICES = 2.5, 6.0, 16
# Spacings that differ more than this are resampled to their median.
MIXED_SPACING = 1.25
# Tokens of cubes, in voxels of the finest axis.
TOKEN, SMALLEST_TOKEN = 8, 2
# Archives from which a teacher and many prototypes pay, and below which contrast does not.
MANY_VOLUMES, MANY_PICTURES, FEW_PICTURES = 2_000, 20_000, 64
LARGE_GPU, HUGE_GPU = 16 * GB, 40 * GB
# Records from which the next size of network has something to learn from.
LARGE_FROM = (100, 1_000)
# Pictures are shrunk to this shorter side; crops have 224 pixels of it.
SIDE_PX = 256
# Each record is seen so often, within these bounds of samples.
PASSES, FEWEST_SAMPLES, MOST_SAMPLES = 200, 16_000, 640_000
WARMUP_SHARE = 0.05
# Objectives that need an encoder that can leave tokens out, or are made for one.
_TOKENS = {"dino", "ibot", "jepa"}
# Objectives that read volumes slice by slice.
_SLICES = {"image_volume"}
# Options of the shipped recipe of an objective that a plan takes over; they belong together.
_RECIPE = ("lr", "weight_decay", "weight_decay_end", "clip_norm", "layer_decay")


class Choice(NamedTuple):
    """The value of an option, and why."""

    value: Any
    why: str


Choices = dict[str, Choice]


def objectives(facts: Facts, machine: Machine, *, flat: bool) -> list[Choice]:
    """In order of preference: the first whose whole batch fits is taken, else the last.

    ``flat``: an image encoder learns from pictures or slices.
    """
    n, large = facts.records, machine.gpu_bytes >= LARGE_GPU
    if facts.kind == "clip":
        return _of_clips(facts)
    if not flat:
        if n >= MANY_VOLUMES and large:
            why = f"{n} volumes and a large GPU: a teacher gives global features and tokens"
            return [Choice("dino", why)]
        why = "first choice for volumes: works with small batches, and the decoder carries over"
        return [Choice("mae", f"{why} to segmentation")]
    if n < FEW_PICTURES:
        return [Choice("mae", f"{n} records are too few to be told apart by contrast")]
    if n >= MANY_PICTURES and large:
        return [Choice("dino", f"{n} records and a large GPU: a teacher pays")]
    return [
        Choice("simclr", f"{n} different records, and a batch of negatives fits at once"),
        Choice("moco", "contrast; a queue gives the negatives that do not fit at once"),
    ]


def _of_clips(facts: Facts) -> list[Choice]:
    masked = "first choice for clips: works with small batches, and nine tokens in ten cost nothing"
    if 2 * facts.modalities.get("US", 0) > facts.records:
        why = "ultrasound: clusters of tokens carry what moves (docs/results/echo_discovr.md)"
        return [Choice("discovr", why), Choice("videomae", masked)]
    return [Choice("videomae", masked)]


def encoder(facts: Facts, machine: Machine, objective: str) -> Choice:
    """Network and size: by kind of data, by objective, and by what the machine can carry."""
    tokens = objective in _TOKENS
    in_slices = sliced(facts)
    if facts.kind == "volume" and objective in _SLICES:
        in_slices = f"{objective} reads slices: an image encoder"
    if facts.kind == "image" or in_slices:
        names = ("vit_tiny_patch16_224", "vit_small_patch16_224") if tokens else (
            "resnet18", "resnet50")  # fmt: skip
        large = machine.gpu_bytes >= LARGE_GPU and facts.records >= LARGE_FROM[1]
        why = in_slices or "an image encoder for pictures"
        return Choice(f"timm/{names[large]}", f"{why}; {_size(facts, machine)}")
    if facts.kind == "clip":
        sizes = ("xs", "s", "b")
        why = f"tubelets of frames; {_size(facts, machine)}"
        return Choice(f"video_vit-{sizes[_step(facts, machine)]}", why)
    family, sizes = ("vit3d", ("xs", "s", "b")) if tokens else ("resenc", ("xs", "s", "m"))
    name = f"{family}-{sizes[_step(facts, machine)]}"
    why = f"a network for volumes; {_size(facts, machine)}"
    flat = token_size(facts)
    if flat == (TOKEN,) * 3:
        return Choice(name, why)
    why += f"; flat tokens, as slices are {facts.thickness:.1f} times thicker than pixels"
    return Choice({"name": name, "token_size": list(flat)}, why)


def _step(facts: Facts, machine: Machine) -> int:
    """Which of three sizes, smallest first."""
    if not machine.gpu or facts.records < LARGE_FROM[0]:
        return 0
    return 2 if machine.gpu_bytes >= HUGE_GPU and facts.records >= LARGE_FROM[1] else 1


def _size(facts: Facts, machine: Machine) -> str:
    """What the size of a network follows from."""
    where = f"{machine.gpu_bytes / GB:.0f} GB of GPU memory" if machine.gpu else "no GPU"
    return f"its size for {facts.records} records and {where}"


def sliced(facts: Facts) -> str:
    """Why volumes are learnt from slice by slice; empty = they are not."""
    if facts.kind != "volume":
        return ""
    if facts.thickness >= VERY_THICK:
        return f"slices are {facts.thickness:.1f} times thicker than pixels: an image encoder"
    if facts.slices < FEW_SLICES:
        return f"{facts.slices} slices are too few for three-dimensional filters: an image encoder"
    return ""


def token_size(facts: Facts) -> tuple[int, ...]:
    """Voxels per token, (D, H, W): about a cube in mm."""
    if facts.spacing_mm is None or facts.thickness < THICK:
        return (TOKEN,) * 3
    finest = min(facts.spacing_mm)
    sides = [TOKEN * finest / spacing for spacing in facts.spacing_mm]
    powers = [2 ** round(math.log2(side)) for side in sides]
    return tuple(min(max(power, SMALLEST_TOKEN), TOKEN) for power in powers)


def input_of(facts: Facts) -> Choices:
    """Channels, picture size and spacing."""
    chosen: Choices = {}
    if facts.kind != "volume" and facts.mixed and facts.channels in (1, 3):
        why = "grey and colour pictures together, as most of them are"
        chosen["match_channels"] = Choice(True, why)
    if facts.kind == "image":
        small, median, large = facts.side_px
        if median > SIDE_PX or large > MIXED_SPACING * small:
            why = f"shorter sides of {small} to {large} pixels become one scale"
            chosen["size_px"] = Choice(min(SIDE_PX, median), why)
    elif facts.kind == "clip":
        why = f"shorter sides of {facts.side_px[0]} to {facts.side_px[2]} pixels become one scale"
        chosen["size_px"] = Choice(SHORT_SIDE_PX, why)
        why = f"frames per second that are kept: views of {MAX_AUTO_CLIP[0]} show about a second"
        chosen["fps"] = Choice(CLIP_FPS, why)
    elif facts.spread > MIXED_SPACING and facts.spacing_mm:
        rounded = [float(f"{spacing:.3g}") for spacing in facts.spacing_mm]
        why = f"spacings differ up to {facts.spread:.1f}-fold: all become the median"
        chosen["spacing_mm"] = Choice(rounded, why)
    else:
        why = "each volume keeps its own"
        if facts.spread > 1 + SPACING_TOLERANCE:
            why += f"; large ones are {facts.spread:.2f} times the small ones, and that is little"
        chosen["spacing_mm"] = Choice(None, why)
    if facts.channels != 1:
        chosen["channels"] = Choice(facts.channels, "of most records")
    return chosen


def recipe(facts: Facts, objective: str) -> Choices:
    """Batch and optimiser of the recipe shipped for the objective."""
    known, _ = read_yaml("pretrain", objective)
    batch = _batch(objective)
    why = "for which the learning rate is set"
    if facts.records < batch:
        batch = 2 ** int(math.log2(facts.records))
        why = f"more would show records twice: there are {facts.records}"
    chosen = {"batch_size": Choice(batch, why)}
    for key in _RECIPE:
        if key in known:
            why = "" if "lr" in chosen else f"as in the recipe shipped for {objective}"
            chosen[key] = Choice(known[key], why)
    return chosen


def hardware(machine: Machine) -> Choices:
    """Precision, and loader processes beside a GPU."""
    where = f"the {machine.gpu}" if machine.gpu else "the CPU"
    if not machine.gpu:
        if machine.bf16:
            return {"precision": Choice("bf16-mixed", f"{where} multiplies bfloat16 in hardware")}
        return {"precision": Choice("32-true", f"{where} has no bfloat16 in hardware")}
    name, kind = ("bf16-mixed", "bfloat16") if machine.bf16 else ("16-mixed", "float16 only")
    processes = min(max(machine.cpus - 1, 1), 8)
    return {
        "precision": Choice(name, f"{where} computes {kind}"),
        "workers": Choice(processes, "loader processes: all CPUs but one, at most 8"),
    }


def accumulate(batch: int, micro_batch: int) -> Choices:
    """How many parts a batch is computed in."""
    parts = batch // micro_batch
    why = "the whole batch fits at once"
    if parts > 1:
        why = f"parts of {micro_batch} samples fit in memory, one after the other"
    return {"accumulate": Choice(parts, why)}


def wanted_steps(facts: Facts, batch: int) -> int:
    """Steps that the data deserve."""
    samples = min(max(PASSES * facts.records, FEWEST_SAMPLES), MOST_SAMPLES)
    return max(samples // batch, 1)


def steps(facts: Facts, batch: int, affordable: float) -> Choices:
    """As many as the data deserve and the time allows, with a warm-up.

    Args:
        facts: how many records there are.
        batch: samples per step.
        affordable: steps that the given hours are enough for.
    """
    wanted = wanted_steps(facts, batch)
    count = max(int(min(wanted, affordable)), 1)
    seen = f"each record is seen about {count * batch / facts.records:.0f} times"
    if count < wanted:
        seen += f"; {wanted} would be better, but the hours given end before"
    return {
        "steps": Choice(count, seen),
        "warmup": Choice(max(round(WARMUP_SHARE * count), 1), f"{WARMUP_SHARE:.0%} of the steps"),
    }


def as_config(chosen: Mapping[str, Choice]) -> dict[str, Any]:
    """The options alone."""
    return {key: choice.value for key, choice in chosen.items()}


def with_recipe(wish: Component) -> Any:
    """An objective with the options of its shipped recipe; its own go before them.

    Raises:
        ConfigError: there is no such objective.
    """
    OBJECTIVES.module(wish.name)
    values, _ = read_yaml("pretrain", wish.name)
    known = Component.model_validate(values.get("objective", wish.name)).options
    options = {**known, **wish.options}
    return plain(Component(name=wish.name, **options))


def plain(part: Component) -> Any:
    """A component as a YAML file writes it."""
    return part.model_dump(mode="json") if part.options else part.name


def _batch(objective: str) -> int:
    return int(read_yaml("pretrain", objective)[0]["batch_size"])
