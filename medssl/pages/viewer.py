"""Slices of scans with labels on them, to leaf through; without scripts they stand in a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

SCRIPT = Path(__file__).with_name("viewer.js").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One slice, and its labels as a picture that is transparent elsewhere."""

    data_uri: str
    overlay_uri: str


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Slices of one scan, or the reason why none is shown."""

    title: str
    caption: str
    slices: Sequence[Slice] = ()
    first: int = 0
    """The slice that is shown first."""
    hidden: str = ""


def viewers(stacks: Sequence[Stack]) -> str:
    """A viewer per scan: a slider and a switch for the labels."""
    cells = "".join(_viewer(one) for one in stacks)
    return f'<div class="viewers">{cells}</div>' if cells else ""


def legend(names: Sequence[tuple[str, tuple[int, int, int]]]) -> str:
    """Names of labels with their colours, 0..255."""
    items = "".join(
        f'<span><svg viewBox="0 0 10 10"><rect width="10" height="10" fill="rgb{colour}"/></svg>'
        f"{escape(name)}</span>"
        for name, colour in names
    )
    return f'<div class="legend keys">{items}</div>' if items else ""


def _viewer(one: Stack) -> str:
    inner = f'<div class="hidden">{escape(one.hidden)}</div>'
    if one.slices:
        last = len(one.slices) - 1
        inner = "".join(_slice(k, s, k == one.first) for k, s in enumerate(one.slices))
        inner = f'<div class="slices">{inner}</div>'
        inner += (
            f'<div class="controls"><input type="range" min="0" max="{last}" value="{one.first}" '
            f'aria-label="slice"{" hidden" if not last else ""}><output></output>'
            '<label><input type="checkbox" checked> labels</label></div>'
        )
    return (
        f'<figure class="viewer">{inner}<figcaption><b>{escape(one.title)}</b><br>'
        f"{escape(one.caption)}</figcaption></figure>"
    )


def _slice(number: int, one: Slice, shown: bool) -> str:
    over = f'<img class="over" alt="" src="{escape(one.overlay_uri)}">' if one.overlay_uri else ""
    return (
        f'<div class="slice{" on" if shown else ""}">'
        f'<img alt="slice {number + 1}" src="{escape(one.data_uri)}">{over}</div>'
    )
