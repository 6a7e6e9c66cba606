"""What a classifier was learned on, as far as it decides the last bits; never a host's name."""

from __future__ import annotations

import platform

import torch


def machine(device: torch.device) -> dict[str, str]:
    """torch's version and the device's name: 'cpu x86_64 AVX512', or that of the GPU.

    Args:
        device: Where it is computed.
    """
    name = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        # torch chooses its kernels by what the processor can do, and sums in another order then.
        else f"cpu {platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    )
    return {"torch": torch.__version__, "device": name}
