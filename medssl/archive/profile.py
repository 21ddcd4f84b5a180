"""The Basic Application Level Confidentiality Profile: what happens to which DICOM attribute.

Source: DICOM PS3.15 2024b, Table E.1-1, column "Basic Profile", all 621 rows
(``_profile_2024b.csv``).
"""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Literal

EDITION = "2024b"
_TABLE = Path(__file__).with_name(f"_profile_{EDITION}.csv")

Action = Literal["X", "Z", "D", "U"]
"""Remove; empty; dummy value; new UID (on a sequence: keep it, clean what is inside)."""

# The standard leaves a choice where it depends on the object's type whether an attribute may be
# absent (X), empty (Z) or must have a value (D). The last one named is right for every type of
# object, and hides as much.
_CHOSEN: dict[str, Action] = {
    "X": "X",
    "Z": "Z",
    "D": "D",
    "U": "U",
    "X/Z": "Z",
    "X/D": "D",
    "Z/D": "D",
    "X/Z/D": "D",
    "X/Z/U*": "U",
}


@cache
def rows() -> tuple[tuple[str, str, str], ...]:
    """``(tag, action, name)`` of every row, as the standard has them.

    A tag is 8 hex digits, ``x`` for any digit (``60xx3000``), or ``private``.
    """
    with _TABLE.open(encoding="utf-8", newline="") as file:
        next(file)
        table = csv.reader(file)
        next(table)
        return tuple((tag, action, name) for tag, action, name in table)


def action_of(tag: int) -> Action | None:
    """What the profile does to a tag, (group << 16) + element; ``None`` = not in the table.

    >>> action_of(0x00100010), action_of(0x60023000), action_of(0x00091001), action_of(0x00280010)
    ('Z', 'X', 'X', None)
    """
    if tag >> 16 & 1:
        return _CHOSEN[_by_tag()["private"]]
    code = f"{tag:08X}"
    found = _by_tag().get(code) or _by_tag().get(f"{code[:2]}xx{code[4:]}")
    if found is None:
        found = _by_tag().get(f"{code[:2]}xxxxxx")
    return None if found is None else _CHOSEN[found]


@cache
def _by_tag() -> dict[str, str]:
    return {tag: action for tag, action, _ in rows()}
