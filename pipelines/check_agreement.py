"""Ours against independent code: runs the agreement tests and lists them.

A test ``test_<ours>_equals_<library>_<theirs>`` compares two implementations on the same random
inputs, to 1e-5 or closer; where a convention differs, the test says how the one becomes the other.

    python -m pipelines.check_agreement
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

from pipelines._bench import write_table

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = (
    "lightly",
    "sklearn",
    "monai",
    "torch",
    "timm",
    "scipy",
    "torchmetrics",
    "smp",
    "numpy",
)
_NAME = re.compile(rf"test_(\w+?)_equals?_({'|'.join(LIBRARIES)})_(\w+)")


def agreement_tests() -> list[Path]:
    """Files that hold at least one such test."""
    files = sorted((ROOT / "tests").rglob("test_*.py"))
    return [file for file in files if _NAME.search(file.read_text(encoding="utf-8"))]


def main() -> None:
    """Run them, write ``docs/results/agreement.md``, fail if one does."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-k", "equal", f"--junit-xml={report}"]
        done = subprocess.run([*command, *map(str, agreement_tests())], cwd=ROOT, check=False)
        cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314 - our own file
    rows = []
    for case in cases:
        found = _NAME.match(case.get("name", ""))
        if found:
            ours, library, theirs = found.groups()
            place = case.get("classname", "").replace(".", "/") + ".py"
            agrees = "no" if len(case) else "yes"
            rows.append((f"`{ours}`", library, f"`{theirs}`", agrees, f"`{place}`"))
    note = (
        "Same inputs, same number to 1e-5 or closer (what is found by iteration, such as the "
        "logistic probe, to the tolerance in its test); a test states conventions that differ."
    )
    head = ("ours", "library", "theirs", "agrees", "test")
    write_table(
        "agreement", "Agreement with independent code", head, sorted(set(rows)), note,
        by="check_agreement",
    )  # fmt: skip
    sys.exit(done.returncode)


if __name__ == "__main__":
    main()
