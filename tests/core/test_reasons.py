"""No reason code without a sentence: the source is searched for every code it can give."""

import ast
import fnmatch
import re

import pytest

from medssl.core.reasons import REASONS, meaning
from tests.support import ROOT

CODE = re.compile(r"[a-z][a-z0-9*]*(_[a-z0-9*]+)*(:.*)?")


def texts(node):
    """Possible values of an expression; what is computed becomes ``*``."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [node.value]
    if isinstance(node, ast.JoinedStr):
        parts = (p.value if isinstance(p, ast.Constant) else "*" for p in node.values)
        return ["".join(parts)]
    if isinstance(node, ast.IfExp):
        return texts(node.body) + texts(node.orelse)
    return []


def codes(tree):
    """First argument of ReadError, ``reason=``, ``reason = ...``, returned (code, sentence)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func).rpartition(".")[2]
            if name == "ReadError" and node.args:
                yield from texts(node.args[0])
            if name in {"Refused", "ReadError"}:
                yield from (t for k in node.keywords if k.arg == "reason" for t in texts(k.value))
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "reason":
            yield from texts(node.value)
        elif isinstance(node, ast.Return) and isinstance(node.value, ast.Tuple):
            pair = [texts(one) for one in node.value.elts]
            if len(pair) == 2 and pair[1] and " " in pair[1][0]:
                yield from (code for code in pair[0] if CODE.fullmatch(code))


def unknown(source):
    """Codes of a source text that the table lacks."""
    found = (code.partition(":")[0] for code in codes(ast.parse(source)))
    return {code for code in found if not fnmatch.filter(REASONS, code)}


def test_every_code_in_the_source_has_a_meaning():
    rooms = [f for f in ROOT.glob("medssl/**/*.py") if f.name != "reasons.py"]
    missing = {f.name: bad for f in rooms if (bad := unknown(f.read_text(encoding="utf-8")))}
    assert missing == {}


def test_every_meaning_has_a_code_in_the_source():
    rooms = [f for f in ROOT.glob("medssl/**/*.py") if f.name != "reasons.py"]
    source = "\n".join(f.read_text(encoding="utf-8") for f in rooms)
    assert [code for code in REASONS if not re.search(rf'["{{]{code}[":]', source)] == []


@pytest.mark.parametrize(
    "line",
    [
        "raise ReadError('new_code', 'x')",
        "raise ReadError(f'{part}_new_code', 'x')",
        "Refused(files=f, reason='new_code', message=m)",
        "return 'new_code', f'{n} frames in one file'",
        "reason = 'truncated' if a else 'new_code'",
    ],
)
def test_a_new_code_is_seen_wherever_it_is_given(line):
    assert unknown(line)


def test_meanings_are_sentences_without_full_stop():
    for code, (what, fix) in REASONS.items():
        assert what and fix and not what.endswith(".") and not fix.endswith("."), code
        assert "|" not in what + fix  # it is a cell of a table


def test_a_code_of_a_newer_version_is_no_crash():
    assert "does not know" in meaning("from_the_future").what
