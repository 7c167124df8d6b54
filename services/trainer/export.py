"""The export job: a checkpoint as a folder that other programs read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shared.contracts.checkpoint_specs import ExportSpec
from shared.contracts.manifest import ExportMeta
from shared.contracts.names import ArtifactType
from shared.contracts.progress import OutputLine, PhaseLine, ProgressMessage
from shared.contracts.run_file import RunFile
from shared.model.gguf import export_gguf
from shared.model.huggingface import export_huggingface


def export(
    run: RunFile,
    spec: ExportSpec,
    *,
    report: Callable[[ProgressMessage], None],
    publish: Callable[[Path, Path], None],
) -> None:
    """Write the folder and announce it."""
    report(PhaseLine(phase="exporting"))
    source = run.inputs["checkpoint"]
    temporary, final = run.outputs / ".export.tmp", run.outputs / "export"
    temporary.mkdir(parents=True)
    write = {"huggingface": export_huggingface, "gguf": export_gguf}[spec.format]
    write(source.path, temporary, dtype=spec.dtype)
    publish(temporary, final)
    meta = ExportMeta(format=spec.format, checkpoint_id=source.id)
    name = f"{source.name} ({spec.format})"
    report(OutputLine(output=ArtifactType.EXPORT, path=str(final), name=name, meta=meta))
