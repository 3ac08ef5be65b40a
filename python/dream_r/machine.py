"""What this machine has: cores and free memory, also inside a container."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def cores() -> int:
    """Cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this platform
        return os.cpu_count() or 1


def memory_free() -> int | None:
    """Bytes that can be allocated without swapping; None where that is not known."""
    found = [_meminfo("MemAvailable")]
    limit = _number("/sys/fs/cgroup/memory.max")
    used = _number("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        found.append(limit - used)
    known = [value for value in found if value is not None]
    return max(min(known), 0) if known else None


def memory_total() -> int | None:
    """Bytes of memory; None where that is not known."""
    known = [v for v in (_meminfo("MemTotal"), _number("/sys/fs/cgroup/memory.max")) if v]
    return min(known) if known else None


def cpu() -> tuple[str, tuple[str, ...]]:
    """The processor's name and those of its features that the kernels look for."""
    wanted = (
        "avx2",
        "fma",
        "f16c",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512_bf16",
        "avx512_vnni",
        "amx_bf16",
        "amx_int8",
        "amx_tile",
    )
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                name = value.strip()
            elif key.strip() == "flags":
                flags = set(value.split())
                break
    except OSError:
        pass
    return name, tuple(flag for flag in wanted if flag in flags)


def _meminfo(key: str) -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith(f"{key}:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return None


def _number(path: str) -> int | None:
    try:
        return int(Path(path).read_text())
    except (OSError, ValueError):  # "max" is no limit
        return None
