"""Speed, waiting time and memory of a running training."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

_STATUS = Path("/proc/self/status")


class Meter:
    """Samples/s, share of time waiting for data, and peak memory since the last reading."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size = batch_size
        self._reset(None)

    def _reset(self, step: int | None) -> None:
        self.since_s, self.waited_s, self.step = time.perf_counter(), 0.0, step

    def wait_for(self, source: Any) -> Any:
        """Next batch, with the wait accounted for."""
        start = time.perf_counter()
        batch = next(source)
        self.waited_s += time.perf_counter() - start
        return batch

    def read(self, step: int) -> dict[str, float]:
        """Figures since the last reading."""
        passed_s = max(time.perf_counter() - self.since_s, 1e-9)
        done = step - self.step if self.step is not None else 0
        waited_pct = 100 * self.waited_s / passed_s
        values = {"data_wait_pct": waited_pct, "peak_memory_mb": peak_memory_mb()}
        if done:
            values["samples_per_s"] = done * self.batch_size / passed_s
        self._reset(step)
        return values


def peak_memory_mb() -> float:
    """Peak of the device's memory, or of this process's resident memory on CPU, in MB."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    if _STATUS.is_file():  # getrusage would count the process that started this one, too
        lines = _STATUS.read_text(encoding="ascii").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1.024e-3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
