"""Energy counters of processors (RAPL) and NVIDIA cards (NVML), where the machine lets them be read."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")  # Intel's and AMD's processors alike
UUID_LENGTH = 96  # NVML_DEVICE_UUID_V2_BUFFER_SIZE


def packages(root: Path = POWERCAP) -> dict[str, tuple[int, int]]:
    """Processor package -> (microjoules counted so far, microjoules after which the counter starts at 0 again).

    Empty if there are no counters, or if only root may read them (on most machines since 2020).
    """
    found = {}
    for zone in sorted(root.glob("intel-rapl:*")):
        try:
            if (zone / "name").read_text(encoding="utf-8").startswith("package"):
                now, limit = (
                    int((zone / name).read_text(encoding="utf-8"))
                    for name in ("energy_uj", "max_energy_range_uj")
                )
                found[zone.name] = now, limit
        except (OSError, ValueError):
            continue
    return found


def between(before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]) -> float:
    """Joules of all packages between two readings, which have to be closer than a counter takes to come round."""
    used = (
        (after[name][0] - before[name][0]) % (limit + 1)
        for name, (_, limit) in before.items()
        if name in after
    )
    return sum(used) / 1e6


@cache
def _library() -> ctypes.CDLL | None:
    """NVML, which comes with NVIDIA's driver; None without it."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        return library if library.nvmlInit_v2() == 0 else None
    except (OSError, AttributeError):
        return None


def cards() -> dict[str, int]:
    """UUID of each NVIDIA card that counts its energy (Volta and later) -> millijoules since its driver was loaded."""
    library, found = _library(), {}
    if library is None:
        return found
    count = ctypes.c_uint()
    library.nvmlDeviceGetCount_v2(ctypes.byref(count))
    for number in range(count.value):
        handle, uuid, energy = (
            ctypes.c_void_p(),
            ctypes.create_string_buffer(UUID_LENGTH),
            ctypes.c_ulonglong(),
        )
        failed = (
            library.nvmlDeviceGetHandleByIndex_v2(number, ctypes.byref(handle))
            or library.nvmlDeviceGetUUID(handle, uuid, UUID_LENGTH)
            or library.nvmlDeviceGetTotalEnergyConsumption(handle, ctypes.byref(energy))
        )
        if not failed:
            found[uuid.value.decode().removeprefix("GPU-")] = energy.value
    return found
