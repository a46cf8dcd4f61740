"""A description of the machine on which something is measured."""

import os
import platform
from pathlib import Path

import torch


def machine() -> dict[str, str]:
    """Describes this machine: device, processor, threads and versions."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "device": device,
        "processor": _processor(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "python": platform.python_version(),
        # Settings of glibc's allocator and of oneDNN, which change times much
        **{
            key: value
            for key, value in sorted(os.environ.items())
            if key.startswith(("MALLOC_", "ONEDNN_MAX_CPU_ISA"))
        },
    }


def bf16_instructions(device: str) -> str:
    """Names the bfloat16 instructions of a device ("cpu" or "cuda"); "none" or "no" without any."""
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
