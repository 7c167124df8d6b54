"""The report says what the rows say, and nothing that a user wrote becomes markup."""

from __future__ import annotations

import pytest

from shared.base.errors import ConflictError, NotFoundError
from shared.contracts.progress import LogLine, MetricsLine, NoticeLine, SampleLine
from shared.db.session import Database
from shared.db.tables import JobRow
from shared.jobs.life.lifecycle import succeed
from shared.jobs.life.recorder import record
from shared.jobs.reading.report import render_report
from shared.jobs.reading.views import job_view
from tests.support import rows
from tests.support.databases import create_sqlite


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return Database(f"sqlite:///{create_sqlite(tmp_path_factory.mktemp('report') / 'report.db')}")


def train(database: Database, **spec: object) -> JobRow:
    with database.transaction() as session:
        job = rows.running_training(session, **spec)
        record(
            session,
            job.id,
            job.token,
            [
                MetricsLine(series="train", step=5, tokens=320,
                            values={"loss": 4.5, "tokens_per_second": 900.0, "mfu": 0.25,
                                    "checkpoint_stall_seconds": 0.012}),
                MetricsLine(series="validation", step=5, tokens=320,
                            values={"validation_loss": 4.25, "bits_per_byte": 2.0}),
                MetricsLine(series="train", step=10, tokens=640,
                            values={"loss": 3.5, "tokens_per_second": 1100.0, "mfu": 0.35,
                                    "flops": 2.5e12, "peak_memory_bytes": 3.25e9,
                                    "data_wait_seconds": 0.0015,
                                    "checkpoint_stall_seconds": 0.0}),
                MetricsLine(series="validation", step=10, tokens=640,
                            values={"validation_loss": 4.5, "bits_per_byte": 2.125,
                                    "validation_bytes": 2_500_000.0}),
                SampleLine(step=5, prompt="Once", text="an early one"),
                SampleLine(step=10, prompt="Once", text="upon\n# no heading"),
                NoticeLine(message="<b>bold</b> | `code`"),
                LogLine(line="on cpu in torch.float32"),
            ],
        )  # fmt: skip
        rows.commit(session, job, 10, final=True)
        return succeed(session, job.id, job.token)


def table_of(report: str) -> dict[str, list[str]]:
    """Cells by first cell, of all tables; the results come first and win."""
    lines = [line.strip("| ").split(" | ") for line in report.splitlines() if line[:1] == "|"]
    return {first: rest for first, *rest in reversed(lines)}


def test_measured_values_stand_beside_the_reference_s(database: Database) -> None:
    table = table_of(render_report(database, train(database).id))
    assert table["Parameters"] == ["17,888", "12,496,960"]
    assert table["Final training loss"] == ["3.5000", "3.44"]
    assert table["Validation loss"] == ["4.5000", "not reported"]
    assert table["Lowest validation loss"] == ["4.2500", "not reported"]
    assert table["Bits per byte"] == ["2.1250", "not reported"]
    assert table["Validation text"] == ["2.50 MB", "not reported"]
    assert table["Steps"] == ["10", "80,000"]
    assert table["Tokens seen"] == ["640", "2,621,440,000"]
    assert table["Tokens a step"] == ["64", "32,768"]
    assert table["Learning rate"][0] == "cosine 0.0006 to 6e-05, warm-up 2,000"
    assert table["Data"][0] == "1 documents, 3,000 bytes (1,000 tokens)"
    assert table["Tokenizer"][0] == "byte-level BPE, 300 entries, 3.00 bytes a token"


def test_costs_are_shown(database: Database) -> None:
    job = train(database)
    table = table_of(render_report(database, job.id))
    assert table["Speed"] == ["1,000 tokens/s", "not reported"]
    assert table["Share of peak FLOP/s (MFU)"] == ["30.0%", "not reported"]
    assert table["Training FLOPs"] == ["2.5e+12", "not reported"]
    assert table["Peak memory"] == ["3.25 GB", "6 to 8 GB"]
    assert table["Wait for data"] == ["1.5 ms a step", "not reported"]
    assert table["Longest stop for a checkpoint"] == ["12 ms", "not reported"]
    assert job.measured["peak_memory_bytes"] == 3.25e9
    assert job_view(job).progress.measured["mfu"] == 0.35


def test_lineage_leads_from_the_material_to_the_checkpoint(database: Database) -> None:
    job = train(database)
    report = render_report(database, job.id)
    table = table_of(report)
    assert table["Tokens"][1] == f"`{job.resolved_inputs['tokens']}`"
    assert {"Dataset", "Tokenizer", "Checkpoint"} <= table.keys()
    assert f"`{job.outputs['checkpoint']}`" in table["Checkpoint"]
    assert "![Training and validation loss over steps](plot.svg)" in report


def test_a_finetuned_run_names_its_base_and_its_own_reference(database: Database) -> None:
    with database.transaction() as session:
        base = rows.base_model(session)
        tokens = rows.add_tokens(session, format="dialogues")
        spec = {"model": "chat", "checkpoint": base.outputs["checkpoint"], "tokens": tokens}
        job = rows.claim_job(session, rows.submit(session, {"kind": "finetune", "spec": spec}))
    report = render_report(database, job.id)
    assert report.startswith("# Finetuning: finetune\n")
    table = table_of(report)
    assert table["Base model"][1:] == [f"`{base.outputs['checkpoint']}`", f"`{base.id}`"]
    assert table["Validation loss"] == ["-", "2.49"]
    assert table["Final training loss"] == ["-", "2.31"]
    assert table["Parameters"][0] == "17,888"


def test_what_users_and_models_wrote_is_no_markup(database: Database) -> None:
    report = render_report(database, train(database).id)
    assert "    upon\n    # no heading\n" in report
    assert "an early one" not in report
    assert "The process at its start:\n\n    on cpu in torch.float32\n" in report
    assert "- \\<b\\>bold\\</b\\> | \\`code\\`" in report


def test_a_run_that_has_not_begun_has_a_report_too(database: Database) -> None:
    with database.transaction() as session:
        job = rows.submit(session, rows.train_document(rows.add_tokens(session)))
    table = table_of(render_report(database, job.id))
    assert table["Final training loss"] == ["-", "3.44"]
    assert (table["Time"][0], table["Tokens a step"][0]) == ("-", "-")


def test_only_training_runs_have_a_report(database: Database) -> None:
    with database.transaction() as session:
        job = rows.submit(session, {**rows.INGEST, "fresh": True})
    with pytest.raises(ConflictError, match="kind ingest"):
        render_report(database, job.id)
    with pytest.raises(NotFoundError):
        render_report(database, "job_none")
