"""`python -m services.trainer.run RUN_FILE`: the process of one train, finetune or export job.

Wiring only: hands the run file, a reporter and the stop signals to whoever does the work.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from services.trainer.device import choose_device
from services.trainer.export import export
from services.trainer.loop import Outcome
from services.trainer.training import Outside, train
from shared.base.errors import JobFailedError
from shared.contracts.checkpoint_specs import ExportSpec
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
    if not isinstance(run.spec, TrainSpec | FinetuneSpec):
        raise JobFailedError(
            f"The trainer does not know jobs of kind {run.kind}.", code=FailureCode.BAD_SPEC
        )
    if choose_device(run.spec.device).type == "cpu":
        os.nice(NICENESS)
    interruption = _SignalledInterruption(stop)
    outside = Outside(report=reporter.send, publish=publish_folder, interruption=interruption)
    if train(run, run.spec, outside) is Outcome.FINISHED:
        return ExitCode.DONE
    assert stop.requested is not None, "the loop stopped without being asked to"
    return stop.requested.exit_code


if __name__ == "__main__":
    run_program(main)
