"""Where and how the model computes: device, number type, compilation with a stated fallback."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from services.trainer.data import Batch
from shared.base.errors import JobFailedError
from shared.contracts.names import FailureCode
from shared.contracts.training_specs import TrainingOptions
from shared.model.loss import linear_cross_entropy
from shared.model.transformer import Transformer

logger = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GIB = 1 << 30
LEAST_GPU_BYTES = GIB
"""With less than this a training run is not worth its start."""
BatchLoss = Callable[[Batch], Tensor]
"""Summed loss of a batch in nats, float32, with its gradient graph."""


def choose_device(wanted: str) -> torch.device:
    """Resolve auto, cpu or cuda. Raises JobFailedError when a GPU is wanted and there is none."""
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise JobFailedError(
            "The spec asks for device cuda, but this worker sees no CUDA device.",
            code=FailureCode.BAD_SPEC,
            hint="Use device auto or cpu, or run a trainer where nvidia-smi shows a GPU.",
        )
    return torch.device("cuda", torch.cuda.current_device())


def cap_gpu_memory(device: torch.device, reserved_bytes: int) -> None:
    """Keep this process's tensors out of what is reserved; raises JobFailedError, see below."""
    total = torch.cuda.get_device_properties(device).total_memory
    fraction = memory_fraction(total, reserved_bytes)
    torch.cuda.set_per_process_memory_fraction(fraction, device)


def memory_fraction(total_bytes: int, reserved_bytes: int) -> float:
    """The part of a card that training may take. Raises JobFailedError when that is too little."""
    rest = total_bytes - reserved_bytes
    if rest < LEAST_GPU_BYTES:
        raise JobFailedError(
            f"The GPU has {total_bytes / GIB:.1f} GiB and {reserved_bytes / GIB:.1f} of them are "
            "kept for the inference service: too little is left to train.",
            code=FailureCode.GPU_OOM,
            hint="Serve on the CPU (RYANGPT_DEVICE=cpu for inference) and set "
            "RYANGPT_INFERENCE_GPU_BYTES=0 for the trainer, or use a larger card.",
        )
    return rest / total_bytes


def device_name(device: torch.device) -> str:
    """`cpu`, or the GPU's product name."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """Resolve auto to bfloat16 on CUDA and float32 on the CPU."""
    if wanted == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return DTYPES[wanted]


def wants_compile(spec: TrainingOptions, device: torch.device) -> bool:
    """Resolve auto to True on CUDA only: on a CPU a cold compile costs more than it gives."""
    return device.type == "cuda" if spec.compile == "auto" else bool(spec.compile)


def eager_loss(model: Transformer) -> BatchLoss:
    """The loss as it is written down."""

    def loss(batch: Batch) -> Tensor:
        hidden = model.hidden(batch.ids, batch.positions, batch.mask)
        return linear_cross_entropy(hidden, model.head_weight, batch.targets)

    return loss


def compiled_loss(
    model: Transformer, example: Batch, notify: Callable[[str], None]
) -> tuple[BatchLoss, bool]:
    """Compile the loss and prove it on one batch, backwards too; else fall back, saying why.

    Returns the loss and whether it is the compiled one. Gradients are left cleared.
    """
    eager = eager_loss(model)
    compiled: BatchLoss = torch.compile(eager, dynamic=False)
    try:
        compiled(example).backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:  # the base of everything dynamo and inductor raise
        logger.exception("torch.compile failed")
        reason = str(error).strip().splitlines()[0]
        notify(f"torch.compile failed, training without it ({type(error).__name__}: {reason}).")
        return eager, False
    finally:
        model.zero_grad(set_to_none=True)
    return compiled, True


def largest_batch(loss: BatchLoss, batch: Batch) -> int:
    """How many of the batch's rows fit the GPU, found by halving and trying; 0 for not even one.

    Call it when the failed attempt's memory is free again. Gradients are left behind.
    """
    rows = len(batch.ids)
    while rows := rows // 2:
        try:
            loss(batch.first(rows)).backward()  # type: ignore[no-untyped-call]
        except torch.OutOfMemoryError:
            continue
        return rows
    return 0


def out_of_memory(batch_size: int, accumulation: int, *, fits: int) -> JobFailedError:
    """The error for a batch that does not fit the GPU; `fits` is one that was tried and does."""
    if fits:
        pieces = -(-batch_size // fits) * accumulation
        hint = (
            f"batch_size {fits} fits: with gradient_accumulation_steps {pieces} it is the same "
            "training, in smaller pieces."
        )
    else:
        hint = "Not even one sequence fits: use a smaller model or a shorter context_length."
    return JobFailedError(
        f"The GPU's memory does not hold a micro-batch of {batch_size} sequences.",
        code=FailureCode.GPU_OOM,
        hint=hint,
    )


def gpu_lost(error: RuntimeError) -> JobFailedError:
    """The error for a GPU, or a driver, that answers no more."""
    return JobFailedError(
        f"The GPU stopped answering: {str(error).strip().splitlines()[0]}",
        code=FailureCode.GPU_LOST,
        hint="See nvidia-smi and the machine's kernel log; then retry the job, which goes on from "
        "its last checkpoint.",
    )
