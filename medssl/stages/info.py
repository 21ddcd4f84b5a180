"""What this installation can do, read from source text alone: nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass

from medssl import __version__
from medssl.core.registry import ENCODERS, HEADS, OBJECTIVES, READERS, Entry, Registry

ROOMS = (OBJECTIVES, ENCODERS, HEADS, READERS)


@dataclass(frozen=True)
class Capability:
    """One name that ``--objective``, ``--encoder`` or ``--task`` accepts, or a reader."""

    name: str
    summary: str


def capabilities() -> dict[str, list[Capability]]:
    """All objectives, encoders, heads and readers, by room and name."""
    return {registry.room: _members(registry) for registry in ROOMS}


def as_dict() -> dict[str, object]:
    """What ``medssl info --json`` prints."""
    rooms = {
        room: [{"name": member.name, "summary": member.summary} for member in members]
        for room, members in capabilities().items()
    }
    return {"medssl": __version__, **rooms}


def as_markdown() -> str:
    """The README's table, one row per family."""
    lines = ["| kind | name | what it is |", "|---|---|---|"]
    for registry in ROOMS:
        kind = registry.room.removesuffix("s")
        lines += [f"| {kind} | {_family(e)} | {e.summary} |" for e in registry.entries]
    return "\n".join(lines) + "\n"


def _family(entry: Entry) -> str:
    """``resenc-xs`` ``-s`` ..., or ``timm/<name>``."""
    if entry.examples:
        return f"`{entry.name}/<name>`"
    first, *others = entry.names
    return " ".join([f"`{first}`", *(f"`{name.removeprefix(entry.name)}`" for name in others)])


def as_text() -> str:
    """What ``medssl info`` prints."""
    lines = [f"medssl {__version__}"]
    for room, members in capabilities().items():
        lines += ["", f"{room}:"]
        width = max((len(member.name) for member in members), default=0)
        lines += [f"  {member.name:{width}}  {member.summary}" for member in members]
    return "\n".join(lines) + "\n"


def _members(registry: Registry) -> list[Capability]:
    return [Capability(name, entry.summary) for entry in registry.entries for name in entry.names]
