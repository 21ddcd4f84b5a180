"""Commands that only look must start at once: no torch."""

import statistics
import subprocess
import sys
import time

import pytest

from tests.support import fresh_python

RUN = "import sys; sys.argv = ['medssl', *{words!r}]\nfrom medssl.cli.main import main\n"
NO_TORCH = "try: main()\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["info", "--json"],
        ["index", "--help"],
        ["doctor", "--help"],
        ["quarantine", "--help"],
    ],
)
def test_commands_that_only_look_import_no_torch(words):
    fresh_python(RUN.format(words=words) + NO_TORCH)


@pytest.mark.parametrize(
    "module", ["medssl", "medssl.stages.index", "medssl.stages.info", "medssl.stages.doctor"]
)
def test_the_index_side_imports_no_torch(module):
    fresh_python(f"import {module}, sys; assert 'torch' not in sys.modules")


@pytest.mark.parametrize("module", ["medssl.stages._records", "medssl.stages._labelled_store"])
def test_workers_that_fill_the_store_import_no_torch(module):
    fresh_python(f"import {module}, sys; assert 'torch' not in sys.modules")


def test_help_takes_no_more_than_three_times_the_bare_libraries():
    help_code = RUN.format(words=["--help"]) + "main()"
    bare, full = [], []
    for _ in range(7):  # interleaved, so that both see the same load
        bare.append(_seconds("import typer, pydantic"))
        full.append(_seconds(help_code))
    assert statistics.median(full) < 3 * statistics.median(bare)


def _seconds(code):
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start
