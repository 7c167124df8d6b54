"""The data program: `python -m services.tokenizer.run run.json` does one ingest or tokenize job."""

from __future__ import annotations

from pathlib import Path

from services.tokenizer.ingest import ingest
from services.tokenizer.input_file import InputFile
from services.tokenizer.tokenize import TokenizeFolders, tokenize
from services.tokenizer.watch import Stopped, Watch
from services.tokenizer.well_known import fetched_files
from shared.base.download import Downloader
from shared.base.errors import JobFailedError
from shared.contracts.data_specs import IngestSpec, TokenizeSpec
from shared.contracts.manifest import ArtifactMeta
from shared.contracts.names import ArtifactType, ExitCode, FailureCode
from shared.contracts.progress import OutputLine
from shared.contracts.run_file import RunFile
from shared.jobs.program import Reporter, Stop, StopSignal, publish_folder, run_program


def main(run: RunFile, reporter: Reporter, stop: StopSignal) -> ExitCode:
    """Do the job of `run`. One that is stopped publishes nothing and starts over later."""
    watch = Watch(reporter.send, lambda: stop.requested is not None)
    try:
        if isinstance(run.spec, IngestSpec):
            _ingest(run, run.spec, reporter, watch)
        elif isinstance(run.spec, TokenizeSpec):
            _tokenize(run, run.spec, reporter, watch)
        else:
            raise JobFailedError(
                f"The tokenizer service does no {run.kind} jobs.", code=FailureCode.BAD_SPEC
            )
    except Stopped:
        return (stop.requested or Stop.DRAIN).exit_code
    return ExitCode.DONE


def _ingest(run: RunFile, spec: IngestSpec, reporter: Reporter, watch: Watch) -> None:
    upload = run.inputs.get("upload")
    file = InputFile(upload.path, upload.name) if upload else None
    downloads = run.outputs / ".downloads"
    fetched = fetched_files(spec, downloads, watch, Downloader()) if file is None else ()
    work = _work_folder(run, ArtifactType.DATASET)
    meta = ingest(spec, file, work, watch, fetched=fetched)
    _publish(run, reporter, ArtifactType.DATASET, spec.name, meta)


def _tokenize(run: RunFile, spec: TokenizeSpec, reporter: Reporter, watch: Watch) -> None:
    paths = {field: entry.path for field, entry in run.inputs.items()}
    folders = TokenizeFolders(
        datasets=(
            paths["dataset"],
            *(paths[f"more_datasets.{index}"] for index in range(len(spec.more_datasets))),
        ),
        tokenizer=paths.get("tokenizer"),
        validation_dataset=paths.get("validation_dataset"),
        tokenizer_output=_work_folder(run, ArtifactType.TOKENIZER),
        tokens_output=_work_folder(run, ArtifactType.TOKENS),
    )
    tokenizer, tokens = tokenize(spec, folders, num_threads=run.num_threads, watch=watch)
    _publish(run, reporter, ArtifactType.TOKENIZER, spec.name, tokenizer)
    _publish(run, reporter, ArtifactType.TOKENS, spec.name, tokens)


def _unfinished(run: RunFile, output: ArtifactType) -> Path:
    """Return where an output grows until it is whole."""
    return run.outputs / f".{output}.unfinished"


def _work_folder(run: RunFile, output: ArtifactType) -> Path:
    folder = _unfinished(run, output)
    folder.mkdir(parents=True)
    return folder


def _publish(
    run: RunFile, reporter: Reporter, output: ArtifactType, name: str, meta: ArtifactMeta
) -> None:
    final = run.outputs / output
    publish_folder(_unfinished(run, output), final)
    reporter.send(OutputLine(output=output, path=str(final), name=name, meta=meta))


if __name__ == "__main__":
    run_program(main)
