"""A job program that does what its script says: `python -m tests.support.programs RUN_FILE`.

The script is JSON, carried where a spec has free text: in `sample_prompts` of a train job, in
`name` of an ingest job. It counts steps as a trainer would, and can be held at one by a file.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from shared.base.errors import JobFailedError
from shared.base.settings import ENV_PREFIX
from shared.contracts.checkpoint_specs import EvaluateSpec, ExportSpec
from shared.contracts.evaluation import Evaluation
from shared.contracts.manifest import (
    REPORT_MD,
    ArtifactMeta,
    CheckpointMeta,
    DatasetMeta,
    EvaluationMeta,
    ExportMeta,
)
from shared.contracts.model_config import ModelConfig
from shared.contracts.names import ArtifactType, ExitCode, FailureCode
from shared.contracts.progress import (
    CheckpointLine,
    MetricsLine,
    OutputLine,
    PhaseLine,
    ProgressLine,
)
from shared.contracts.run_file import RunFile
from shared.contracts.training_specs import TrainingOptions
from shared.jobs.program import Reporter, Stop, StopSignal, publish_folder, run_program

TINY_MODEL = ModelConfig(
    vocab_size=300, context_length=16, num_layers=1, d_model=32, num_heads=1, d_ff=32
)
TOKENIZER_SHA256 = "ab" * 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What the program does. Steps count from 1."""

    steps: int = 4
    save_every: int = 1
    crash_at: int | None = None
    """In its first attempt, end by SIGKILL at this step."""
    always_crash: bool = False
    """End with a traceback before the first step, in every attempt."""
    hang_at: int | None = None
    """In its first attempt, say nothing more from this step on, and ignore every signal."""
    hold_at: int | None = None
    """Wait at this step until `gate` exists or a stop is asked for."""
    gate: str = ""
    fail: str = ""
    """Explain with this message that the job cannot succeed."""
    no_room: bool = False
    """End as a program whose disk does not even take the line that explains it."""
    ignore_stop: bool = False
    """Do not obey."""
    linger: float = 0.0
    """Seconds between the last line and the end of a training process."""
    skip_output: bool = False
    """End well without the last checkpoint or output."""
    patient: bool = False
    """Wait until each checkpoint has been taken from the spool before going on."""
    show_settings: bool = False
    """Print the names of the platform's settings that reached the process."""
    stranger: bool = False
    """Leave a grandchild behind that sleeps, and its number in `stranger` beside the gate."""

    def text(self) -> str:
        """As JSON, without what is left at its default."""
        defaults = asdict(Script())
        return json.dumps({k: v for k, v in asdict(self).items() if v != defaults[k]})


def main(run: RunFile, reporter: Reporter, stop: StopSignal) -> ExitCode:
    """Act out the script."""
    script = _script_of(run)
    print(f"attempt {run.attempt} begins", flush=True)  # noqa: T201 - output is what is relayed
    if script.show_settings:
        names = sorted(name for name in os.environ if name.startswith(ENV_PREFIX))
        print(f"settings: {names}", flush=True)  # noqa: T201
    if script.always_crash:
        raise RuntimeError("scripted crash")
    if script.fail:
        raise JobFailedError(script.fail, code=FailureCode.BAD_DATA, hint="scripted hint")
    if script.no_room:
        return ExitCode.DISK_FULL
    if script.stranger:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
        Path(script.gate).with_name("stranger").write_text(str(child.pid))
    if isinstance(run.spec, TrainingOptions):
        code = _train(run, script, reporter, stop)
        time.sleep(script.linger)
        return code
    return _put_out(run, script, reporter, stop)


def _script_of(run: RunFile) -> Script:
    if isinstance(run.spec, TrainingOptions):
        return Script(**json.loads(run.spec.sample_prompts[0]))
    name = getattr(run.spec, "name", "{}")
    return Script(**json.loads(name))


def _train(run: RunFile, script: Script, reporter: Reporter, stop: StopSignal) -> ExitCode:
    done = json.loads((run.resume / "state.json").read_text())["step"] if run.resume else 0
    reporter.send(PhaseLine(phase="training"))
    for step in range(done + 1, script.steps + 1):
        _interrupt(run, script, step)
        _hold(script, step, stop)
        if stop.requested is Stop.CANCEL and not script.ignore_stop:
            return ExitCode.CANCELLED
        reporter.send(ProgressLine(step=step, total_steps=script.steps))
        values = {"loss": 10.0 / step}
        reporter.send(MetricsLine(series="train", step=step, tokens=100 * step, values=values))
        stopping = stop.requested is not None and not script.ignore_stop
        is_last = step == script.steps
        if (step % script.save_every == 0 or is_last or stopping) and not script.skip_output:
            _save(run, reporter, step, final=is_last)
            while script.patient and (run.spool / f"step-{step}").exists():
                time.sleep(0.005)
        if stopping and not is_last:
            assert stop.requested is not None
            return stop.requested.exit_code
    return ExitCode.DONE


def _interrupt(run: RunFile, script: Script, step: int) -> None:
    if run.attempt > 1:
        return
    if step == script.crash_at:
        os.kill(os.getpid(), signal.SIGKILL)
    if step == script.hang_at:
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        time.sleep(600)


def _hold(script: Script, step: int, stop: StopSignal) -> None:
    while step == script.hold_at and not Path(script.gate).exists():
        if stop.requested is not None and not script.ignore_stop:
            return
        time.sleep(0.01)


def _save(run: RunFile, reporter: Reporter, step: int, *, final: bool) -> None:
    temporary = run.spool / f".step-{step}"
    temporary.mkdir()
    (temporary / "state.json").write_text(json.dumps({"step": step}))
    (temporary / "model.safetensors").write_bytes(b"weights of step %d" % step)
    (temporary / "tokenizer.json").write_text("{}")
    folder = run.spool / f"step-{step}"
    publish_folder(temporary, folder)
    meta = CheckpointMeta(
        step=step,
        stage="pretrain",
        model=TINY_MODEL,
        tokenizer_sha256=TOKENIZER_SHA256,
        metrics={"validation_loss": 10.0 / step},
        final=final,
    )
    reporter.send(CheckpointLine(path=str(folder), best=True, meta=meta))


def _put_out(run: RunFile, script: Script, reporter: Reporter, stop: StopSignal) -> ExitCode:
    for step in range(1, script.steps + 1):
        _interrupt(run, script, step)
        _hold(script, step, stop)
        if stop.requested is not None and not script.ignore_stop:
            return stop.requested.exit_code
        reporter.send(ProgressLine(step=step, total_steps=script.steps))
    if script.skip_output:
        return ExitCode.DONE
    temporary = run.outputs / ".output"
    temporary.mkdir()
    if isinstance(run.spec, ExportSpec):
        source = run.inputs["checkpoint"]
        shutil.copy(source.path / "model.safetensors", temporary)
        output = ArtifactType.EXPORT
        meta: ArtifactMeta = ExportMeta(format="huggingface", checkpoint_id=source.id)
    elif isinstance(run.spec, EvaluateSpec):
        (temporary / REPORT_MD).write_text("# Evaluation\n")
        output = ArtifactType.EVALUATION
        meta = EvaluationMeta(
            checkpoint_id=run.inputs["checkpoint"].id,
            tokens_id=run.inputs["tokens"].id,
            result=Evaluation(sources=()),
        )
    else:
        (temporary / "part-00000.jsonl").write_text('{"text": "hello"}\n')
        output = ArtifactType.DATASET
        meta = DatasetMeta(
            format="documents", documents=1, text_bytes=5, duplicates_dropped=0, source="a script"
        )
    publish_folder(temporary, run.outputs / output)
    path = str(run.outputs / output)
    reporter.send(OutputLine(output=output, path=path, name="scripted", meta=meta))
    return ExitCode.DONE


if __name__ == "__main__":
    run_program(main)
