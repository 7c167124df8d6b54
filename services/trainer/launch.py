"""`python -m services.trainer.launch N MODULE RUN_FILE`: one job as N processes of one machine.

`torch.distributed.run`, with two things added: it dies with its parent, and it ends with the exit
code of the job rather than with one of its own. (The ranks die with it: each asks the kernel to.)
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from torch.distributed import run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from shared.base.process import die_with_parent
from shared.contracts.names import ExitCode
from shared.contracts.run_file import EXIT_CODE_FILE
from shared.jobs.program import SIGNAL_OF_STOP

NEVER = "86400"
"""Seconds: who stops the job has a grace of its own, after which it kills."""


def main(processes: str, module: str, run_file: str) -> int:
    """Run until all ranks have ended; return the job's exit code."""
    written = Path(run_file).with_name(EXIT_CODE_FILE)
    signals = ",".join(number.name for number in SIGNAL_OF_STOP.values())
    options = ["--standalone", "--nproc-per-node", processes, "--max-restarts", "0"]
    options += ["--signals-to-handle", signals, "--shutdown-timeout", NEVER]
    try:
        run.main([*options, "-m", module, run_file])
    except ChildFailedError as error:
        codes = {failure.exitcode for failure in error.failures.values()}
        for code in (ExitCode.BAD_INPUT, ExitCode.DISK_FULL):
            if code in codes:
                return code
        if not written.exists():
            raise
    except SignalException as error:
        if not written.exists():
            _die_of(error.sigval)
    return int(written.read_text()) if written.exists() else ExitCode.DONE


def _die_of(number: signal.Signals) -> None:
    """As a process does that is asked to stop before it could listen."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


if __name__ == "__main__":
    die_with_parent()
    sys.exit(main(*sys.argv[1:]))
