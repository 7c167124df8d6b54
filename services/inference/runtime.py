"""Where and how this process computes: device, number type, attention backend, threads."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from services.inference.attention import AttentionBackend, SdpaBackend, SlabBackend
from services.inference.bag_attention import BagBackend
from services.inference.host_runner import HostRunner
from services.inference.kv_cache import KVCachePool
from services.inference.matrix import WeightType, has_fast_int8
from services.inference.memory import MemoryBudget
from services.inference.network import Network
from services.inference.resident.decode_step import Capture, CudaGraphs, recompute
from services.inference.resident.runner import ResidentRunner
from services.inference.resident.weight_sets import Resident, WeightSets
from services.inference.runner import Runner
from services.inference.threads import Cores
from shared.base.errors import StartupError
from shared.base.settings import Settings
from shared.contracts.model_config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Chosen once at start, the same for every model."""

    device: torch.device
    dtype: torch.dtype
    weights: WeightType
    attention: AttentionBackend
    caches: KVCachePool
    budget: MemoryBudget
    runner: Runner
    cores: Cores
    weight_sets: WeightSets | None = None
    """Where versions are copied to; None where each is built anew."""
    side: torch.cuda.Stream | None = None
    """The stream that versions are loaded on, one for all of them."""

    def describe(self) -> dict[str, str]:
        """For health, metrics and the log."""
        dtype = str(self.dtype).removeprefix("torch.")
        return {
            "device": self.device.type,
            "dtype": dtype,
            "weights": dtype if self.weights == "auto" else self.weights,
            "attention": self.attention.name,
        }

    def beside(self) -> AbstractContextManager[object]:
        """Compute beside the engine, on another thread, and in its way as little as possible."""
        return self.cores.loading() if self.side is None else torch.cuda.stream(self.side)

    def build(
        self, name: str, config: ModelConfig, state: Mapping[str, Tensor]
    ) -> tuple[Network, Resident | None]:
        """A network with the weights of a version of model `name`, and the set it is in, if any.

        Raises OverBudgetError, and IntegrityError for weights that do not fit.
        """
        if self.weight_sets is not None:
            resident = self.weight_sets.load(name, config, state)
            return resident.network, resident
        self.budget.check(config)
        network = Network(config, state, device=self.device, dtype=self.dtype, weights=self.weights)
        self.budget.count(network)
        return network, None


def open_runtime(settings: Settings) -> Runtime:
    """Choose device, type and attention. Raises StartupError when what was asked for is missing."""
    torch.set_num_threads(settings.resolved_num_threads)
    device = _choose_device(settings)
    weights = _choose_weights(settings.inference_weights, device)
    if device.type == "cuda":
        return resident_runtime(
            settings,
            device=device,
            dtype=torch.bfloat16,
            attention=choose_on_cuda(settings.attention, device),
            new_capture=CudaGraphs if settings.inference_cuda_graphs else lambda: recompute,
        )
    return _host_runtime(settings, device, weights, choose_on_cpu(settings.attention))


def _host_runtime(
    settings: Settings, device: torch.device, weights: WeightType, attention: AttentionBackend
) -> Runtime:
    caches = KVCachePool(
        num_slots=settings.inference_slots, order=attention, device=device, dtype=torch.float32
    )
    cores = Cores(settings.resolved_num_threads)
    return Runtime(
        device=device,
        dtype=torch.float32,
        weights=weights,
        attention=attention,
        caches=caches,
        budget=MemoryBudget(settings.inference_memory_bytes, caches, weights),
        runner=HostRunner(cores),
        cores=cores,
    )


def resident_runtime(
    settings: Settings,
    *,
    device: torch.device,
    dtype: torch.dtype,
    attention: SlabBackend,
    new_capture: Callable[[], Capture],
) -> Runtime:
    """A runtime whose tokens stay on `device`. One slot of its caches is scratch."""
    num_slots = settings.inference_slots
    caches = KVCachePool(num_slots=num_slots + 1, order=attention, device=device, dtype=dtype)
    budget = MemoryBudget(settings.inference_memory_bytes, caches)
    return Runtime(
        device=device,
        dtype=dtype,
        weights="auto",
        attention=attention,
        caches=caches,
        budget=budget,
        runner=ResidentRunner(device),
        cores=Cores(settings.resolved_num_threads),
        weight_sets=WeightSets(caches, attention, budget, new_capture, num_slots=num_slots),
        side=torch.cuda.Stream(device) if device.type == "cuda" else None,  # type: ignore[no-untyped-call]
    )


Requested = Literal["auto", "xformers", "sdpa"]


def choose_on_cpu(requested: Requested) -> AttentionBackend:
    """The backend to generate with on a CPU. Raises StartupError for xformers."""
    if requested == "xformers":
        raise StartupError(
            "attention=xformers needs a CUDA device, and this service computes on the CPU; "
            "set RYANGPT_ATTENTION=auto or sdpa."
        )
    return SdpaBackend() if requested == "sdpa" else BagBackend()


def choose_on_cuda(requested: Requested, device: torch.device) -> SlabBackend:
    """The backend to generate with on CUDA; never another one than was asked for.

    Raises StartupError when xformers does not work here and SDPA was not asked for.
    """
    if requested == "sdpa":
        return SdpaBackend()
    # Here and not above: on a CPU xformers must not be imported, nor need be installed.
    from services.inference.xformers_attention import open_xformers

    return open_xformers(device)


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
