"""What accelerators can do at most: dense bf16 tensor FLOPs a second, by the name that the driver gives a device."""

from __future__ import annotations

import re

import torch

# The first entry whose words all occur in the name. From the vendors' data sheets, without sparsity, in 1e12.
PEAK_TFLOPS: tuple[tuple[str, float], ...] = (
    ("GB200", 2500.0),
    ("B200", 2250.0),
    ("B100", 1750.0),
    ("GH200", 989.4),
    ("H200 NVL", 835.0),
    ("H200", 989.4),
    ("H100 NVL", 835.0),
    ("H100 PCIe", 756.0),
    ("H100", 989.4),
    ("H800 PCIe", 756.0),
    ("H800", 989.4),
    ("H20", 148.0),
    ("A100", 311.9),
    ("A800", 311.9),
    ("A40", 149.7),
    ("A30", 165.0),
    ("A10G", 70.0),
    ("A10", 125.0),
    ("L40S", 362.0),
    ("L40", 181.0),
    ("L4", 121.0),
    ("RTX 6000 Ada", 364.2),
    ("RTX A6000", 154.8),
    ("4090", 165.2),
    ("3090", 71.0),
    ("MI300X", 1307.4),
    ("MI325X", 1307.4),
    ("MI250X", 191.5),  # one of its two dies, which is one device
)


def peak_flops(name: str) -> float | None:
    """Floating-point operations a second of the device of this name; None where it is not in the table."""
    for words, tflops in PEAK_TFLOPS:
        if all(re.search(rf"(?<![A-Za-z0-9]){re.escape(word)}(?![A-Za-z0-9])", name, re.I) for word in words.split()):
            return tflops * 1e12
    return None


def device_peak(device: torch.device) -> float | None:
    """That of a device; None for CPUs, whose peak nobody can tell from the name."""
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
