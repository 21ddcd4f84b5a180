"""Tables that people write, in a spreadsheet or by hand."""

from __future__ import annotations

import io
from pathlib import Path

from medssl.core.errors import UsageError


def open_table(path: Path) -> io.StringIO:
    """Text of a CSV table in UTF-8, with or without the mark that spreadsheets put first.

    Raises:
        UsageError: other letters.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        fix = "in a spreadsheet: save as 'CSV UTF-8'"
        raise UsageError("a table is not in UTF-8", where=str(path), fix=fix) from None
    return io.StringIO(text, newline="")
