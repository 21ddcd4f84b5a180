"""Limits that keep the code readable (CONTRIBUTING.md)."""

import ast

import pytest

from tests.support import ROOT

# Orders of stages are short; parts they share, benchmarks and GPU checks may be longer.
LINES = {
    "medssl/**/*.py": 300,
    "pipelines/*.py": 300,
    "pipelines/[!_bg]*.py": 80,
    "examples/*.py": 70,
}


@pytest.mark.parametrize(("pattern", "most"), LINES.items())
def test_files_are_short(pattern, most):
    sizes = {str(f.relative_to(ROOT)): len(f.read_text().splitlines()) for f in ROOT.glob(pattern)}
    assert {name: size for name, size in sizes.items() if size > most} == {}


def test_functions_are_at_most_60_lines():
    long = [
        f"{file.name}:{node.lineno} {node.name}"
        for file in [*ROOT.glob("medssl/**/*.py"), *ROOT.glob("pipelines/*.py")]
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60
    ]
    assert long == []
