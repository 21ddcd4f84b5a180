"""What this machine has: CPUs, memory, shared memory, disk, GPUs. Nothing heavy is imported."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medssl.archive._pool import usable_cpus

_CGROUPS, _OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - its size is asked for, nothing is written
_CPU_INFO = Path("/proc/cpuinfo")
_GPU_TIMEOUT_S = 10.0


def machine(folder: Path) -> dict[str, Any]:
    """Resources in bytes and counts; ``None`` where the system does not say.

    Args:
        folder: results would go there; its disk counts.
    """
    return {
        "cpus": usable_cpus(),
        "memory_bytes": _memory_bytes(),
        "shared_memory_bytes": _free_bytes(_SHARED_MEMORY),
        "disk_free_bytes": _free_bytes(folder),
        "gpus": _gpus(),
    }


def _memory_bytes() -> int:
    """Physical memory, or less where a container or a scheduler caps it."""
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    caps = (file.read_text(encoding="ascii").strip() for file in _memory_limits())
    return min([physical, *(int(cap) for cap in caps if cap.isdigit())])


def _memory_limits() -> Iterator[Path]:
    """Limits of the control groups (version 1 or 2) of this process, and of those above them."""
    if not _OWN_CGROUPS.is_file():
        return
    for line in _OWN_CGROUPS.read_text(encoding="utf-8").splitlines():
        _, controllers, place = line.split(":", 2)
        if "memory" in controllers.split(","):
            root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
        elif not controllers:
            root, name = _CGROUPS, "memory.max"
        else:
            continue
        own = root / place.lstrip("/")
        groups = [one for one in (own, *own.parents) if one.is_relative_to(root)]
        yield from (one / name for one in groups if (one / name).is_file())


def _free_bytes(folder: Path) -> int | None:
    existing = next((one for one in (folder, *folder.absolute().parents) if one.exists()), None)
    return None if existing is None else shutil.disk_usage(existing).free


def cpu_has_bf16() -> bool:
    """Whether the CPU multiplies matrices of bfloat16 in hardware (AMX)."""
    return _CPU_INFO.is_file() and " amx_bf16" in _CPU_INFO.read_text(encoding="utf-8")


def _gpus() -> list[dict[str, Any]]:
    """Name and memory of each GPU that nvidia-smi lists; none without it."""
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, timeout=_GPU_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    rows = (line.rpartition(",") for line in done.stdout.splitlines())
    return [
        {"name": name.strip(), "memory_bytes": int(mib) * 2**20}
        for name, _, mib in rows
        if mib.strip().isdigit()
    ]
