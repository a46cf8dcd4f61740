"""The machine a figure was measured on."""

import os
import platform
from pathlib import Path

import torch


def machine() -> dict[str, str]:
    """What the figures were measured on."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "device": device,
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        # What glibc's allocator is told; it changes times by a third.
        **{key: value for key, value in sorted(os.environ.items()) if key.startswith("MALLOC_")},
    }


def bf16_instructions(device: str) -> str:
    """Which instructions for bfloat16 the device has."""
    if device == "cuda":
        return "yes" if torch.cuda.is_bf16_supported(including_emulation=False) else "no"
    capabilities = torch.cpu.get_capabilities()
    names = [name for name in ("avx512_bf16", "amx_bf16", "bf16") if capabilities.get(name)]
    return ", ".join(names) or "none"


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
