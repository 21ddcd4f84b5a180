"""The page of golden checks names tests that exist."""

import re

import pytest

from tests.support import ROOT

PAGE = (ROOT / "docs" / "golden-checks.md").read_text(encoding="utf-8")
FILES = sorted(set(re.findall(r"tests/(?:\w+/)?test_\w+", PAGE)))
NAMED = re.findall(r"(tests/(?:\w+/)?test_\w+)(?:\.py)?::(test_\w+)", PAGE)


@pytest.mark.parametrize("file", FILES)
def test_the_file_exists(file):
    assert (ROOT / f"{file}.py").is_file()


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_exists(file, name):
    source = (ROOT / f"{file}.py").read_text(encoding="utf-8")
    assert f"def {name}(" in source


def test_methods_and_shared_checks_have_a_line():
    lines = re.findall(r"^\| \**(2\.\d+|G\d+)", PAGE, re.MULTILINE)
    assert {f"2.{n}" for n in (*range(1, 14), 16)} <= set(lines)
    assert {f"G{n}" for n in (1, 2, 4, *range(10, 31))} <= set(lines)  # G3 with G1, G5-G9 with G4
