"""Puts a training run together from its run file: material, optimizer, position, hooks, loop.

Knows no queue, database or store; lines and folders leave through what it is handed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from traceback import clear_frames
from typing import Protocol

import torch

from services.trainer import checkpoint as checkpoints
from services.trainer.checkpoint_writer import CheckpointWriter
from services.trainer.data import DataOrder
from services.trainer.device import (
    BatchLoss,
    choose_device,
    choose_dtype,
    compiled_loss,
    device_name,
    eager_loss,
    gpu_lost,
    largest_batch,
    out_of_memory,
    wants_compile,
)
from services.trainer.evaluate import Evaluator, complete
from services.trainer.gauge import Machine, Pace
from services.trainer.loop import PROGRESS_SECONDS, Hooks, Outcome, Position, Trainer
from services.trainer.material import Material, finetuning, pretraining
from services.trainer.optim import make_optimizer
from services.trainer.plan import Plan, make_plan
from services.trainer.snapshot import Snapshot
from services.trainer.team import ALONE, Team, TeamLoss
from shared.base.errors import JobFailedError
from shared.contracts.manifest import CheckpointMeta
from shared.contracts.names import FailureCode
from shared.contracts.progress import (
    CheckpointLine,
    NoticeLine,
    PhaseLine,
    ProgressLine,
    ProgressMessage,
    SampleLine,
)
from shared.contracts.run_file import RunFile
from shared.contracts.training_specs import FinetuneSpec, TrainSpec
from shared.model.canary import canary_loss
from shared.model.threads import one_thread

logger = logging.getLogger(__name__)


class Interruption(Protocol):
    """Whether somebody wants the run to end early."""

    def cancelled(self) -> bool:
        """Drop the step."""

    def stopping(self) -> bool:
        """Finish the step, write a checkpoint; also true when cancelled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """The run's only ways out of its process."""

    report: Callable[[ProgressMessage], None]
    publish: Callable[[Path, Path], None]
    interruption: Interruption
    team: Team = ALONE
    """Of its processes only the leading one reports and saves."""

    def notify(self, message: str) -> None:
        """Tell a person."""
        self.report(NoticeLine(message=message))


@dataclass(slots=True, kw_only=True)
class Session:
    """One run, put together."""

    run: RunFile
    spec: TrainSpec | FinetuneSpec
    outside: Outside
    material: Material
    optimizer: torch.optim.Optimizer
    plan: Plan
    device: torch.device
    dtype: torch.dtype
    compiled: bool = False
    snapshot: Snapshot = field(init=False)
    """The last saved weights and optimizer state; before a save, the first ones."""
    writer: CheckpointWriter = field(default_factory=CheckpointWriter)

    @property
    def team(self) -> Team:
        """The processes that train together."""
        return self.outside.team

    def state(self, position: Position) -> checkpoints.TrainerState:
        """What `state.json` says at `position`."""
        return checkpoints.make_state(
            position,
            stage=self.material.stage,
            tokenizer=self.material.tokenizer,
            tokens_id=self.run.inputs["tokens"].id,
            spec=self.spec.model_dump(mode="json"),
            code_version=self.run.code_version,
            environment=checkpoints.environment_of(
                device=device_name(self.device),
                dtype=self.dtype,
                compiled=self.compiled,
                world_size=self.team.size,
            ),
        )

    def save(self, position: Position, best: bool, final: bool) -> None:
        """Take a snapshot; another thread writes it into the spool and announces it.

        Waits for the one before to be on the disk, and at the end of a run for its own.
        """
        self.writer.wait()
        self.snapshot.take(position.step)
        if not self.team.leads:
            return
        state = self.state(position)
        suffix = "-final" if final else ""
        folder = self.run.spool / f"step-{position.step}{suffix}"
        meta = CheckpointMeta(
            step=position.step,
            stage=self.material.stage,
            model=self.material.model.config,
            tokenizer_sha256=state.tokenizer_sha256,
            metrics=position.metrics,
            final=final,
        )
        self.writer.start(partial(self._write, folder, state, meta, best))

    def _write(
        self, folder: Path, state: checkpoints.TrainerState, meta: CheckpointMeta, best: bool
    ) -> None:
        checkpoints.write_checkpoint(
            folder,
            config=meta.model,
            snapshot=self.snapshot,
            state=state,
            tokenizer=self.material.tokenizer,
            publish=self.outside.publish,
        )
        with one_thread():
            loss = canary_loss(meta.model, self.snapshot.weights, self.material.tokenizer)
        meta = meta.model_copy(update={"canary_loss": loss})
        self.outside.report(CheckpointLine(path=str(folder), best=best, meta=meta))

    def roll_back(self) -> int:
        """Put the last saved weights and optimizer state back; returns their step."""
        self.snapshot.put_back()
        return self.snapshot.step


def train(run: RunFile, spec: TrainSpec | FinetuneSpec, outside: Outside) -> Outcome:
    """Train as `spec` says until the end or until interrupted.

    Raises JobFailedError for whatever the user can mend: data, spec, divergence, GPU memory.
    """
    outside.report(PhaseLine(phase="loading"))
    session = _open_session(run, spec, outside)
    try:
        position = _start_position(session)
        loss = _choose_loss(session)
        _report_differences(session, position)
        session.snapshot = Snapshot(session.material.model, session.optimizer, step=position.step)
        with session.writer:
            return _trainer(session, position, loss).run()
    except torch.OutOfMemoryError as error:
        clear_frames(error.__traceback__)  # they hold the memory that is missing
        raise _out_of_memory(session) from error
    except torch.AcceleratorError as error:
        raise gpu_lost(error) from error


def _out_of_memory(session: Session) -> JobFailedError:
    """Find the batch that would have fitted."""
    model, size = session.material.model, session.plan.batch_size
    model.zero_grad(set_to_none=True)
    if session.device.type == "cuda":
        torch.cuda.empty_cache()
    order = DataOrder(seed=session.spec.seed, num_sequences=session.material.data.num_sequences)
    batch = session.material.data.batch(*order.locate(0, size))
    fits = largest_batch(eager_loss(model), batch)
    return out_of_memory(size, session.plan.accumulation, fits=fits)


def _open_session(run: RunFile, spec: TrainSpec | FinetuneSpec, outside: Outside) -> Session:
    device = choose_device(spec.device)
    dtype = choose_dtype(spec.dtype, device)
    if isinstance(spec, TrainSpec):
        material = pretraining(run, spec, device)
    else:
        material = finetuning(run, spec, device, outside.notify)
    model = material.model.to(device)
    model.compute_dtype = dtype
    optimizer = make_optimizer(
        model,
        betas=spec.betas,
        eps=spec.adam_eps,
        weight_decay=spec.weight_decay,
        kind=spec.optimizer,
    )
    plan = make_plan(spec, model.config, material.data.num_sequences, on_gpu=device.type == "cuda")
    logger.info(
        "%s: %d parameters on %s in %s (torch %s), %d steps of %d x %d sequences, peak lr %.3g",
        material.stage, model.config.num_parameters, device_name(device), dtype, torch.__version__,
        plan.total_steps, plan.accumulation, plan.batch_size, plan.schedule.peak,
    )  # fmt: skip
    return Session(
        run=run,
        spec=spec,
        outside=outside,
        material=material,
        optimizer=optimizer,
        plan=plan,
        device=device,
        dtype=dtype,
    )


def _start_position(session: Session) -> Position:
    """Step 0, or where the checkpoint to resume stopped, with its weights and thread count."""
    folder = session.run.resume
    torch.set_num_threads(max(1, session.run.num_threads // session.team.size))
    if folder is None:
        return Position()
    state = checkpoints.read_state(folder)
    _check_optimizer(state, session.spec)
    if state.environment.world_size == session.team.size:
        # One thread and two differ in the last bits of a sum.
        torch.set_num_threads(state.environment.num_threads)
    checkpoints.restore(folder, session.material.model, session.optimizer)
    return state.position()


def _check_optimizer(state: checkpoints.TrainerState, spec: TrainSpec | FinetuneSpec) -> None:
    """What one optimizer remembers means nothing to another. Older checkpoints are AdamW's."""
    before = state.spec.get("optimizer", "adamw")
    if before != spec.optimizer:
        raise JobFailedError(
            f"The checkpoint to resume was trained with {before} and this job asks for "
            f"{spec.optimizer}.",
            code=FailureCode.BAD_SPEC,
            hint=f"Give optimizer {before}.",
        )


def _choose_loss(session: Session) -> TeamLoss:
    return TeamLoss(session.material.model, _loss_of_one(session), session.team)


def _loss_of_one(session: Session) -> BatchLoss:
    model = session.material.model
    if not wants_compile(session.spec, session.device):
        return eager_loss(model)
    session.outside.report(PhaseLine(phase="compile"))
    order = DataOrder(seed=session.spec.seed, num_sequences=session.material.data.num_sequences)
    example = session.material.data.batch(*order.locate(0, session.plan.batch_size))
    loss, session.compiled = compiled_loss(model, example, session.outside.notify)
    return loss


def _report_differences(session: Session, position: Position) -> None:
    if session.run.resume is None:
        return
    reasons = checkpoints.differences(
        checkpoints.read_state(session.run.resume), session.state(position)
    )
    if reasons:
        text = f"Resumed at step {position.step}, not bit-identical because {'; '.join(reasons)}."
    else:
        text = f"Resumed at step {position.step}, bit-identically."
    session.outside.notify(text)


def _trainer(session: Session, position: Position, loss: TeamLoss) -> Trainer:
    material, outside = session.material, session.outside
    hooks = Hooks(
        report=outside.report,
        evaluate=_evaluation(session),
        save=session.save,
        roll_back=session.roll_back,
        cancelled=outside.interruption.cancelled,
        stopping=outside.interruption.stopping,
    )
    return Trainer(
        model=material.model,
        optimizer=session.optimizer,
        loss=loss,
        data=material.data,
        order=DataOrder(seed=session.spec.seed, num_sequences=material.data.num_sequences),
        plan=session.plan,
        position=position,
        hooks=hooks,
        machine=Machine.of(
            session.device,
            session.dtype,
            flops_per_token=material.model.config.flops_per_token,
            world_size=session.team.size,
        ),
        team=session.team,
    )


def _evaluation(session: Session) -> Callable[[int], dict[str, float] | None]:
    """The loop's evaluate hook: metrics, then samples, each a line."""
    material, spec, outside = session.material, session.spec, session.outside
    evaluator = Evaluator(
        material.validation,
        token_bytes=material.tokenizer.token_bytes(),
        device=session.device,
        assistant=material.stage == "finetune",
    )
    prompts = [material.encode_prompt(prompt) for prompt in spec.sample_prompts]

    def evaluate(step: int) -> dict[str, float] | None:
        pace = Pace(PROGRESS_SECONDS)

        def interrupted() -> bool:
            """Asked before each window, which thereby is a sign of life."""
            if pace.due():
                outside.report(ProgressLine(step=step, total_steps=session.plan.total_steps))
            return outside.interruption.stopping()

        outside.report(PhaseLine(phase="evaluating"))
        metrics = evaluator(material.model, interrupted=interrupted)
        if metrics is None:
            return None
        outside.report(PhaseLine(phase="sampling"))
        texts = complete(
            material.model,
            prompts,
            max_tokens=spec.sample_tokens,
            end_id=material.tokenizer.end_id,
        )
        for prompt, ids in zip(spec.sample_prompts, texts, strict=True):
            text = material.tokenizer.decode(ids)
            outside.report(SampleLine(step=step, prompt=prompt, text=text))
        outside.report(PhaseLine(phase="training"))
        return metrics

    return evaluate
