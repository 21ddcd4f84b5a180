"""Helpers of several tests."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def fresh_python(code, *, env=None, cwd=ROOT):
    """Run code in a new interpreter; returns its stdout, raises with its stderr."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **(env or {})},
        cwd=cwd,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Offline:
    """Fresh processes in which every connection attempt fails and is written down.

    ``tests/offline/sitecustomize.py`` is loaded by each interpreter, worker processes included.
    """

    python: str
    log: Path

    def run(self, *words, cwd=ROOT):
        """Run ``python *words`` and return the finished process."""
        blocked = str(ROOT / "tests" / "offline")
        path = os.pathsep.join([blocked, str(ROOT), os.environ.get("PYTHONPATH", "")])
        env = {**os.environ, "PYTHONPATH": path, "MEDSSL_CONNECTIONS": str(self.log)}
        return subprocess.run(
            [self.python, *map(str, words)],
            capture_output=True,
            text=True,
            env=env,
            cwd=cwd,
            check=False,
        )

    def attempts(self):
        """Connection attempts so far, one line each."""
        return self.log.read_text().splitlines() if self.log.exists() else []
