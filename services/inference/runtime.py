"""Where and how this process computes: device, number type, attention backend, threads."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.inference.attention import AttentionBackend, choose_attention
from services.inference.bag_attention import BagBackend
from services.inference.kv_cache import KVCachePool
from services.inference.matrix import WeightType, has_fast_int8
from services.inference.memory import MemoryBudget
from shared.base.errors import StartupError
from shared.base.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Chosen once at start, the same for every model."""

    device: torch.device
    dtype: torch.dtype
    weights: WeightType
    attention: AttentionBackend
    caches: KVCachePool
    budget: MemoryBudget

    def describe(self) -> dict[str, str]:
        """For health, metrics and the log."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {
            "device": self.device.type,
            "dtype": dtype,
            "weights": dtype if self.weights == "auto" else self.weights,
            "attention": self.attention.name,
        }


def open_runtime(settings: Settings) -> Runtime:
    """Choose device, type and attention. Raises StartupError when what was asked for is missing."""
    torch.set_num_threads(settings.resolved_num_threads)
    device = _choose_device(settings)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    weights = _choose_weights(settings.inference_weights, device)
    attention = choose_attention(
        settings.attention, device, cpu=BagBackend(), open_xformers=_open_xformers
    )
    caches = KVCachePool(
        num_slots=settings.inference_slots,
        order=attention,
        device=device,
        dtype=dtype,
    )
    budget = MemoryBudget(settings.inference_memory_bytes, caches, weights)
    return Runtime(
        device=device,
        dtype=dtype,
        weights=weights,
        attention=attention,
        caches=caches,
        budget=budget,
    )


def _choose_weights(requested: WeightType, device: torch.device) -> WeightType:
    if requested == "int8" and (device.type != "cpu" or not has_fast_int8()):
        raise StartupError(
            "RYANGPT_INFERENCE_WEIGHTS is int8, which needs an x86 CPU with AVX2 and "
            "RYANGPT_DEVICE=cpu; set it to auto."
        )
    return requested


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
