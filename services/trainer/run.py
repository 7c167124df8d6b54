"""`python -m services.trainer.run RUN_FILE`: the process of one job of the trainer service.

Wiring only: hands the run file, a reporter and the stop signals to whoever does the work.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from services.trainer.device import cap_gpu_memory, choose_device
from services.trainer.evaluation import evaluate
from services.trainer.export import export
from services.trainer.gpu_lock import all_taken, lock_gpus, wait_for_gpus
from services.trainer.loop import Outcome
from services.trainer.take_in import take_in
from services.trainer.team import ALONE, Team, agreed
from services.trainer.training import Outside, train
from shared.base.errors import JobFailedError
from shared.base.files import write_bytes
from shared.contracts.checkpoint_specs import EvaluateSpec, ExportSpec, ImportSpec
from shared.contracts.names import ExitCode, FailureCode
from shared.contracts.progress import ProgressMessage
from shared.contracts.run_file import EXIT_CODE_FILE, RunFile
from shared.contracts.training_specs import FinetuneSpec, TrainSpec
from shared.jobs.program import Reporter, Stop, StopSignal, publish_folder, run_program

NICENESS = 10
"""Training yields the CPU to the API and to inference on the same machine."""


@dataclass(frozen=True, slots=True)
class _Interruption:
    """What the signals asked for; in a team, of any of its processes, and all know at once."""

    signal: StopSignal
    team: Team = ALONE

    @property
    def requested(self) -> Stop | None:
        wish = agreed(self.team, list(Stop), self.signal.requested)
        return None if wish is None else Stop(wish)

    def cancelled(self) -> bool:
        return self.requested is Stop.CANCEL

    def stopping(self) -> bool:
        return self.requested is not None


def main(run: RunFile, reporter: Reporter, stop: StopSignal) -> ExitCode:
    """Do the job of the run file's kind."""
    spec, alone = run.spec, _Interruption(stop)
    if isinstance(spec, ExportSpec):
        export(run, spec, report=reporter.send, publish=publish_folder)
        return ExitCode.DONE
    if isinstance(spec, ImportSpec):
        take_in(run, spec, report=reporter.send, publish=publish_folder)
        return ExitCode.DONE
    if isinstance(spec, EvaluateSpec):
        done = evaluate(
            run, spec, report=reporter.send, publish=publish_folder, stopping=alone.stopping
        )
        return ExitCode.DONE if done else _code_of(alone)
    if not isinstance(spec, TrainSpec | FinetuneSpec):
        raise JobFailedError(
            f"The trainer does not know jobs of kind {run.kind}.", code=FailureCode.BAD_SPEC
        )
    if spec.num_gpus == 1:
        return _train(run, spec, reporter, alone)
    return _train_together(run, spec, reporter, stop)


def _train(
    run: RunFile, spec: TrainSpec | FinetuneSpec, reporter: Reporter, interruption: _Interruption
) -> ExitCode:
    team = interruption.team
    if choose_device(spec.device).type == "cpu":
        os.nice(NICENESS)
    elif not _take_gpus(run, reporter, interruption):
        return _code_of(interruption)
    outside = Outside(
        report=reporter.send if team.leads else _say_nothing,
        publish=publish_folder,
        interruption=interruption,
        team=team,
    )
    finished = train(run, spec, outside) is Outcome.FINISHED
    return ExitCode.DONE if finished else _code_of(interruption)


def _train_together(
    run: RunFile, spec: TrainSpec | FinetuneSpec, reporter: Reporter, stop: StopSignal
) -> ExitCode:
    """As one of the processes that the launcher has started; the first says how it ended."""
    team = Team.join()
    code = _train(run, spec, reporter, _Interruption(stop, team))
    if team.leads:
        write_bytes(run.events.with_name(EXIT_CODE_FILE), str(int(code)).encode())
    team.leave()
    return code


def _say_nothing(_line: ProgressMessage) -> None:
    """The leading process of a team speaks for all."""


def _take_gpus(run: RunFile, reporter: Reporter, interruption: _Interruption) -> bool:
    """Lock a GPU for each process and make it torch's; False when asked to end before.

    The leading process holds the locks of the whole team, which does not outlive it.
    """
    team = interruption.team
    uuids = [
        str(torch.cuda.get_device_properties(index).uuid)
        for index in range(torch.cuda.device_count())
    ]
    if len(uuids) < team.size:
        raise JobFailedError(
            f"The job asks for {team.size} GPUs; this worker sees {len(uuids)}.",
            code=FailureCode.BAD_SPEC,
            hint="Lower num_gpus, or set RYANGPT_GPU_SLOTS of the trainer to the GPUs it has.",
        )

    def attempt() -> list[int]:
        return team.told(lock_gpus(run.slot_locks, uuids, team.size) if team.leads else [])

    indices = wait_for_gpus(
        attempt,
        taken=all_taken(run.slot_locks, team.size, len(uuids)),
        report=reporter.send if team.leads else _say_nothing,
        stopping=interruption.stopping,
    )
    if not indices:
        return False
    torch.cuda.set_device(indices[team.rank])
    cap_gpu_memory(choose_device("cuda"), run.reserved_gpu_bytes)
    return True


def _code_of(interruption: _Interruption) -> ExitCode:
    requested = interruption.requested
    assert requested is not None, "the run stopped without being asked to"
    return requested.exit_code


if __name__ == "__main__":
    run_program(main)
