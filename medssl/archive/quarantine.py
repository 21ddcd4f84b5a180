"""The ledger of what could not be used, shared by index, pretrain and predict."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from medssl.core.errors import MedsslError
from medssl.core.runlog import write_text


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One item that a stage could not use. No path and no identifier."""

    record_id: str
    hash: str
    stage: str
    reason: str
    message: str
    first_seen: str
    last_seen: str


class Ledger:
    """``quarantine.jsonl``: one line per (record, stage, reason); adding twice keeps one line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._entries: dict[tuple[str, str, str], Entry] = {}
        if path.exists():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                self._put(_parsed(line, f"{path} line {number}"))

    def add(self, record_id: str, stage: str, reason: str, message: str, hash: str = "") -> None:  # noqa: A002
        """Note a failure now; a known one keeps its first date."""
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        old = self._entries.get((record_id, stage, reason))
        new = Entry(
            record_id=record_id,
            hash=hash,
            stage=stage,
            reason=reason,
            message=message,
            first_seen=old.first_seen if old else now,
            last_seen=now,
        )
        self._put(new)

    def keep(self, stage: str, marks: set[tuple[str, str]]) -> None:
        """Drop the stage's entries whose (record id, hash) is not among these: they changed."""
        self._entries = {
            key: entry
            for key, entry in self._entries.items()
            if entry.stage != stage or (entry.record_id, entry.hash) in marks
        }

    def drop(self, entries: Iterable[Entry]) -> None:
        """Forget entries: the next run of their stage tries again."""
        for one in entries:
            self._entries.pop((one.record_id, one.stage, one.reason), None)

    def entries(self) -> list[Entry]:
        """All entries, oldest first."""
        return sorted(self._entries.values(), key=lambda e: (e.first_seen, e.record_id))

    def reasons(self) -> dict[str, int]:
        """Number of entries by reason."""
        return dict(sorted(Counter(entry.reason for entry in self._entries.values()).items()))

    def save(self) -> None:
        """Write the file whole, so that a crash never leaves half of it."""
        lines = [json.dumps(asdict(entry)) for entry in self.entries()]
        write_text(self.path, "".join(f"{line}\n" for line in lines))

    def _put(self, entry: Entry) -> None:
        self._entries[entry.record_id, entry.stage, entry.reason] = entry


def _parsed(line: str, where: str) -> Entry:
    try:
        return Entry(**json.loads(line))
    except (ValueError, TypeError):
        fix = "restore the file or delete the line"
        raise MedsslError("the quarantine ledger has a broken line", where=where, fix=fix) from None
