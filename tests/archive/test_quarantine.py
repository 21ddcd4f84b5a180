"""The ledger keeps one line per failure, its first date, and nothing that works again."""

import json

import pytest

from medssl.archive.quarantine import Ledger
from medssl.core.errors import MedsslError


def test_adding_twice_keeps_one_line_and_the_first_date(tmp_path):
    first = Ledger(tmp_path / "q.jsonl")
    first.add("r1", "index", "gap", "a slice is missing", hash="h")
    first.save()
    line = json.loads((tmp_path / "q.jsonl").read_text())
    (tmp_path / "q.jsonl").write_text(json.dumps({**line, "first_seen": "2020-01-01T00:00:00Z"}))
    again = Ledger(tmp_path / "q.jsonl")
    again.add("r1", "index", "gap", "a slice is missing", hash="h")
    (entry,) = again.entries()
    assert entry.first_seen == "2020-01-01T00:00:00Z" < entry.last_seen


def test_other_stages_and_reasons_are_other_lines(tmp_path):
    ledger = Ledger(tmp_path / "q.jsonl")
    for stage, reason in (("index", "gap"), ("store", "gap"), ("store", "constant")):
        ledger.add("r1", stage, reason, "")
    assert ledger.reasons() == {"constant": 1, "gap": 2}


def test_what_changed_is_dropped_from_its_stage_only(tmp_path):
    ledger = Ledger(tmp_path / "q.jsonl")
    ledger.add("r1", "index", "gap", "", hash="old")
    ledger.add("r1", "store", "constant", "", hash="old")
    ledger.keep("index", {("r1", "new")})
    assert [entry.stage for entry in ledger.entries()] == ["store"]


def test_a_broken_line_is_an_error_not_a_loss(tmp_path):
    (tmp_path / "q.jsonl").write_text('{"record_id": "r1"\n')
    with pytest.raises(MedsslError, match="broken line"):
        Ledger(tmp_path / "q.jsonl")
