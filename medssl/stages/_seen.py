"""Which records a model has seen, and which of them it meets again.

``seen.json`` beside the card holds the pixel hashes of a pretraining's records and of the runs that
it began with, sorted, and whether that is all: what public weights were trained on is not known.
Equal pixels are found in whatever file they lie; copies that were cropped, resampled or coded anew
are not. Where pictures of a lossy coding were among them and other versions of the decoders are
here, the same file may have other pixels: what has been seen is unknown then.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medssl.archive._digest import LOSSY, decoders, pixel_hash
from medssl.archive.cases import Case
from medssl.core.config import Component
from medssl.core.errors import UsageError
from medssl.core.runlog import write_text
from medssl.encoders.card import load_card
from medssl.readers._dispatch import sample

NAME = "seen.json"
# Of the rules that pixels are hashed by: hashes of others meet none of today's.
HASHES = 2
Overlap = Literal["none found", "transductive", "unknown"]


@dataclass(frozen=True)
class Seen:
    """Pixel hashes; ``complete`` = of all that the weights were trained on.

    Attributes:
        lossy: some pictures have a lossy coding.
    """

    pixels: frozenset[str]
    complete: bool
    lossy: bool = False

    def overlap(self, tested: Mapping[str, Iterable[str]]) -> tuple[Overlap, list[str]]:
        """What is known, and the cases of ``tested`` that were seen.

        >>> Seen(frozenset("ab"), True).overlap({"case": ["b", "c"], "other": ["d"]})
        ('transductive', ['case'])
        >>> Seen(frozenset("a"), False).overlap({"case": ["b"]})
        ('unknown', [])
        """
        met = [name for name, hashes in tested.items() if not self.pixels.isdisjoint(hashes)]
        if met:
            return "transductive", met
        return ("none found" if self.complete else "unknown"), []


NOTHING = Seen(frozenset(), complete=True)
UNKNOWN = Seen(frozenset(), complete=False)


def write_seen(
    model: Path, pixels: Iterable[str], before: Iterable[Seen] = (), *, lossy: bool = False
) -> None:
    """Note what a model was trained on, and what the weights that it began with were.

    Args:
        model: its folder.
        pixels: hashes of the records.
        before: what earlier runs have seen.
        lossy: some records have a lossy coding.
    """
    before = list(before)
    content = {
        "hashes": HASHES,
        "decoders": decoders() if lossy or any(one.lossy for one in before) else "",
        "complete": all(one.complete for one in before),
        "pixel_hashes": sorted({*pixels, *(h for one in before for h in one.pixels)}),
    }
    write_text(model / NAME, json.dumps(content, indent=0) + "\n")


def read_seen(run: Path) -> Seen:
    """What a run folder, or its model folder, says it has seen; ``UNKNOWN`` if nothing."""
    for file in (run / "model" / NAME, run / NAME):
        if file.is_file():
            content = json.loads(file.read_text(encoding="utf-8"))
            if content.get("hashes") != HASHES:
                return UNKNOWN
            told, lossy = content["decoders"], bool(content["decoders"])
            complete = content["complete"] and told in ("", decoders())
            return Seen(frozenset(content["pixel_hashes"]), complete, lossy)
    return UNKNOWN


def seen_before(
    runs: Iterable[Path | None], encoder: Component, objective: Component
) -> list[Seen]:
    """What the weights were trained on that a pretraining begins with or learns from.

    Args:
        runs: that it starts from or goes on from.
        encoder: public ``weights`` among its options have seen nobody knows what.
        objective: with another run, or network, as ``teacher`` or ``embedding``.
    """
    found = [read_seen(run) for run in runs if run]
    if encoder.options.get("weights"):
        found.append(UNKNOWN)
    return found + [read_seen(run) for run in _named_runs(objective).values()]


def learns_from(objective: Component) -> dict[str, str]:
    """Hash of the weights of each run that an objective learns from, as ``<option>_sha256``.

    A path alone does not tell: another run may have been written into the folder.
    """
    runs = {key: run for key, run in _named_runs(objective).items() if run.is_dir()}
    return {f"{key}_sha256": load_card(run)[0].weights_sha256 for key, run in runs.items()}


def _named_runs(objective: Component) -> dict[str, Path]:
    """Teacher and embedding of an objective: folders of runs, or names of public networks."""
    found = {}
    for key in ("teacher", "embedding"):
        given = objective.options.get(key)
        name = given.get("name") if isinstance(given, dict) else given
        if name:
            found[key] = Path(str(name))
    return found


def pixels_of(case: Case) -> list[str]:
    """Pixel hash of each record of a case, as a pretraining would note it.

    Raises:
        ReadError: it cannot be read.
    """
    return [
        pixel_hash(sample(found).array, found.geometry, lossy=LOSSY in found.flags)
        for found in case.records()
    ]


def refuse_copies(tested: Mapping[str, Iterable[str]], learnt: Iterable[Iterable[str]]) -> None:
    """No picture is both tested on and learnt from with its label.

    Raises:
        UsageError: naming cases.
    """
    known = {pixels for hashes in learnt for pixels in hashes}
    copies = [name for name, hashes in tested.items() if not known.isdisjoint(hashes)]
    if copies:
        what = f"{len(copies)} test cases have the pixels of labelled training cases"
        fix = "give copies one patient, and each patient one split"
        raise UsageError(what, where=", ".join(copies[:5]), fix=fix)
