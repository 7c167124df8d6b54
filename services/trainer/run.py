"""`python -m services.trainer.run RUN_FILE`: the process of one job of the trainer service.

Wiring only: hands the run file, a reporter and the stop signals to whoever does the work.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from services.trainer.device import choose_device
from services.trainer.export import export
from services.trainer.gpu_lock import lock_gpu
from services.trainer.loop import Outcome
from services.trainer.take_in import take_in
from services.trainer.training import Outside, train
from shared.base.errors import JobFailedError
from shared.contracts.checkpoint_specs import ExportSpec, ImportSpec
from shared.contracts.names import ExitCode, FailureCode
from shared.contracts.run_file import RunFile
from shared.contracts.training_specs import FinetuneSpec, TrainSpec
from shared.jobs.program import Reporter, Stop, StopSignal, publish_folder, run_program

NICENESS = 10
"""Training yields the CPU to the API and to inference on the same machine."""


@dataclass(frozen=True, slots=True)
class _SignalledInterruption:
    signal: StopSignal

    def cancelled(self) -> bool:
        return self.signal.requested is Stop.CANCEL

    def stopping(self) -> bool:
        return self.signal.requested is not None


def main(run: RunFile, reporter: Reporter, stop: StopSignal) -> ExitCode:
    """Do the job of the run file's kind."""
    if isinstance(run.spec, ExportSpec):
        export(run, run.spec, report=reporter.send, publish=publish_folder)
        return ExitCode.DONE
    if isinstance(run.spec, ImportSpec):
        take_in(run, run.spec, report=reporter.send, publish=publish_folder)
        return ExitCode.DONE
    if not isinstance(run.spec, TrainSpec | FinetuneSpec):
        raise JobFailedError(
            f"The trainer does not know jobs of kind {run.kind}.", code=FailureCode.BAD_SPEC
        )
    interruption = _SignalledInterruption(stop)
    if choose_device(run.spec.device).type == "cpu":
        os.nice(NICENESS)
    elif not _take_gpu(run, reporter, interruption):
        return _code_of(stop)
    outside = Outside(report=reporter.send, publish=publish_folder, interruption=interruption)
    if train(run, run.spec, outside) is Outcome.FINISHED:
        return ExitCode.DONE
    return _code_of(stop)


def _take_gpu(run: RunFile, reporter: Reporter, interruption: _SignalledInterruption) -> bool:
    """Lock a GPU and make it torch's; False when the job was asked to end before one was free."""
    uuids = [
        str(torch.cuda.get_device_properties(index).uuid)
        for index in range(torch.cuda.device_count())
    ]
    index = lock_gpu(run.slot_locks, uuids, report=reporter.send, stopping=interruption.stopping)
    if index is None:
        return False
    torch.cuda.set_device(index)
    return True


def _code_of(stop: StopSignal) -> ExitCode:
    assert stop.requested is not None, "the run stopped without being asked to"
    return stop.requested.exit_code


if __name__ == "__main__":
    run_program(main)
