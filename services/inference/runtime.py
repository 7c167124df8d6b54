"""Where and how this process computes: device, number type, attention backend, threads."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.inference.attention import AttentionBackend, choose_attention
from services.inference.bag_attention import BagBackend
from services.inference.kv_cache import KVCachePool
from services.inference.memory import MemoryBudget
from shared.base.errors import StartupError
from shared.base.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Chosen once at start, the same for every model."""

    device: torch.device
    dtype: torch.dtype
    attention: AttentionBackend
    caches: KVCachePool
    budget: MemoryBudget

    def describe(self) -> dict[str, str]:
        """For health, metrics and the log."""
        return {
            "device": self.device.type,
            "dtype": str(self.dtype).removeprefix("torch."),
            "attention": self.attention.name,
        }


def open_runtime(settings: Settings) -> Runtime:
    """Choose device, type and attention. Raises StartupError when what was asked for is missing."""
    torch.set_num_threads(settings.resolved_num_threads)
    device = _choose_device(settings)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    attention = choose_attention(
        settings.attention, device, cpu=BagBackend(), open_xformers=_open_xformers
    )
    caches = KVCachePool(
        num_slots=settings.inference_slots,
        order=attention,
        device=device,
        dtype=dtype,
    )
    budget = MemoryBudget(settings.inference_memory_bytes, caches)
    return Runtime(device=device, dtype=dtype, attention=attention, caches=caches, budget=budget)


def _choose_device(settings: Settings) -> torch.device:
    has_cuda = torch.cuda.is_available()
    if settings.device == "cuda" and not has_cuda:
        raise StartupError(
            "RYANGPT_DEVICE is cuda, but torch finds no CUDA device; set it to auto or cpu."
        )
    return torch.device("cuda" if has_cuda and settings.device != "cpu" else "cpu")


def _open_xformers(device: torch.device) -> AttentionBackend:
    # Here and not above: on a CPU xformers must not be imported, nor need be installed.
    from services.inference.xformers_attention import open_xformers

    return open_xformers(device)
