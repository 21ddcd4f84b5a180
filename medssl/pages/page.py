"""Building blocks of a report page: each function gives a piece of HTML with its text escaped."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

Level = Literal["good", "warn", "bad"]
Cell = str | int | float
_STYLE = Path(__file__).with_name("style.css")
# The browser itself refuses whatever would be loaded from elsewhere.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One cell of a gallery: a picture, or the reason why it is not shown."""

    title: str
    caption: str
    data_uri: str = ""
    hidden: str = ""


def page(title: str, subtitle: str, sections: Sequence[str], footer: str, script: str = "") -> str:
    """A whole page: nothing loaded from elsewhere, no script but the one given."""
    style = _STYLE.read_text(encoding="utf-8")
    policy, end = _POLICY, ""
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy += f"; script-src 'sha256-{digest}'"
        end = f"<script>{script}</script>\n"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        f"<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p></header>\n"
        + "\n".join(one for one in sections if one)
        + f"\n<footer>{escape(footer)}</footer>\n</main>\n{end}</body>\n</html>\n"
    )


def section(title: str, *blocks: str, note: str = "") -> str:
    """A heading with blocks; nothing at all if every block is empty."""
    content = "\n".join(block for block in blocks if block)
    if not content:
        return ""
    remark = f'<p class="note">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{remark}\n{content}\n</section>"


def verdicts(lines: Sequence[tuple[Level, str]]) -> str:
    """Sentences, each good, to be looked at, or bad."""
    items = "".join(f'<li class="{level}">{escape(text)}</li>' for level, text in lines)
    return f'<ul class="verdict">{items}</ul>' if items else ""


def tiles(values: Sequence[tuple[str, str, str]]) -> str:
    """Large figures: (value, what it is, remark)."""
    cells = (
        f'<div class="card tile"><b>{escape(value)}</b><span>{escape(name)}</span>'
        + (f"<small>{escape(remark)}</small>" if remark else "")
        + "</div>"
        for value, name, remark in values
    )
    return f'<div class="tiles">{"".join(cells)}</div>'


def bars(title: str, values: Sequence[tuple[str, int]]) -> str:
    """Horizontal bars, largest first, as long as their share of the largest."""
    if not values:
        return ""
    ordered = sorted(values, key=lambda pair: (-pair[1], pair[0]))
    most = max(1, ordered[0][1])
    rows = "".join(
        f'<span class="label">{escape(name)}</span>'
        f'<span class="track"><span class="fill" style="display:block;width:{100 * n / most:.1f}%">'
        f'</span></span><span class="value">{n:,}</span>'
        for name, n in ordered
    )
    return f'<div class="card"><h3>{escape(title)}</h3><div class="bars">{rows}</div></div>'


def grid(*blocks: str, wide: bool = False) -> str:
    """Blocks side by side; ``wide`` ones two in a row."""
    content = "\n".join(block for block in blocks if block)
    kind = "grid wide" if wide else "grid"
    return f'<div class="{kind}">\n{content}\n</div>' if content else ""


def table(header: Sequence[str], rows: Sequence[Sequence[Cell]], title: str = "") -> str:
    """Numbers stand right; a cell in backticks is shown as code."""
    if not rows:
        return ""
    head = "".join(_cell("th", text, _is_number(rows[0][k])) for k, text in enumerate(header))
    body = "".join(
        f"<tr>{''.join(_cell('td', value, _is_number(value)) for value in row)}</tr>"
        for row in rows
    )
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return (
        f'<div class="card scroll">{heading}<table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def gallery(pictures: Sequence[Picture], *, strips: bool = False) -> str:
    """Thumbnails with captions; a hidden one is a grey field with its reason.

    ``strips`` are wider than high and keep their shape.
    """
    cells = "".join(_figure(one) for one in pictures)
    kind = "gallery strips" if strips else "gallery"
    return f'<div class="{kind}">{cells}</div>' if cells else ""


def folded(title: str, block: str) -> str:
    """A block that is shown on a click."""
    if not block:
        return ""
    return f'<details class="card"><summary>{escape(title)}</summary>{block}</details>'


def lines(text: str) -> str:
    """Text as it is, line by line."""
    return f"<pre>{escape(text)}</pre>" if text else ""


def _figure(one: Picture) -> str:
    inner = f'<div class="hidden">{escape(one.hidden)}</div>'
    if one.data_uri:
        inner = f'<img alt="{escape(one.title)}" src="{escape(one.data_uri)}">'
    return (
        f'<figure><div class="frame">{inner}</div><figcaption><b>{escape(one.title)}</b>'
        f"<br>{escape(one.caption)}</figcaption></figure>"
    )


def _cell(tag: str, value: Cell, right: bool) -> str:
    if isinstance(value, str) and value.startswith("`") and value.endswith("`"):
        return f"<{tag}><code>{escape(value.strip('`'))}</code></{tag}>"
    text = value if isinstance(value, str) else f"{value:,}"
    return f"<{tag}{' class=n' if right else ''}>{escape(text)}</{tag}>"


def _is_number(value: Cell) -> bool:
    return not isinstance(value, str)
