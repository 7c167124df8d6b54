// The page of one job: where it stands, what it measured, wrote and said.
import { Badge, Failure, Meter, PageHead, Skeleton, useNow } from "../components/basics.js";
import { compact, duration, elapsed, figure, integer, remaining } from "../lib/format.js";
import { html, useState } from "../lib/html.js";
import { lastValue, lowestValue } from "../lib/curves.js";
import { TRAINS } from "../lib/states.js";
import { stepText, subtitle } from "../jobs/row.js";
import { Actions } from "./actions.js";
import { Charts } from "./charts.js";
import { Checkpoints } from "./checkpoints.js";
import { Facts } from "./facts.js";
import { LogTail } from "./log.js";
import { History, Samples } from "./stories.js";
import { useRun } from "./run.js";

export function JobPage({ route }) {
  const id = route.parts[1];
  const [superseded, setSuperseded] = useState(false);
  const run = useRun(id, { superseded });
  const { job, series } = run;
  if (run.error) return html`<${PageHead} title="Job" /><${Failure} error=${run.error} retry=${() => window.location.reload()} />`;
  if (!job) return html`<${PageHead} title="Job" /><section class="card"><${Skeleton} lines=${8} /></section>`;
  const trains = TRAINS.has(job.kind);
  return html`
    <${PageHead} title=${job.name} actions=${html`<${Actions} job=${job} onChanged=${run.setJob} />`}>
      <p class="row"><${Badge} job=${job} /><span class="from-outside">${subtitle(job)}</span></p>
    <//>
    ${!run.linked && html`<div class="note note-warn" role="status">The connection to the platform is lost. It is being tried again; nothing of the job is lost.</div>`}
    <${JobFailure} job=${job} />
    <${Standing} job=${job} series=${series} trains=${trains} />
    ${trains && html`<${Charts} job=${job} series=${series} superseded=${superseded} setSuperseded=${setSuperseded} />`}
    ${trains && html`
      <div class="halves">
        <${Samples} events=${run.events} job=${job} />
        <${Checkpoints} job=${job} checkpoints=${run.checkpoints} reload=${run.loadCheckpoints} />
      </div>`}
    <${LogTail} job=${job} lines=${run.log} />
    <div class="halves">
      <${Facts} job=${job} />
      <${History} events=${run.events} />
    </div>`;
}

function JobFailure({ job }) {
  if (!job.error) return null;
  return html`
    <div class=${`note ${job.state === "failed" ? "note-bad" : "note-warn"}`} role="alert">
      <p><strong class="from-outside">${job.error.message}</strong></p>
      ${job.error.hint && html`<p class="from-outside">${job.error.hint}</p>`}
      <p class="muted small">${job.error.code}</p>
    </div>`;
}

function Standing({ job, series, trains }) {
  const now = useNow(1);
  const tiles = trains ? trainingTiles(job, series) : [];
  const left = job.state === "running" && job.progress.eta_seconds !== null ? `${remaining(job.progress.eta_seconds)} left` : "";
  const waits = { waiting: "Waits until its inputs are there.", queued: "Waits for a free worker.", paused: "Paused. It goes on from its checkpoint." }[job.state];
  const done = [(!waits || job.progress.step > 0) && stepText(job), waits].filter(Boolean).join(" · ");
  return html`
    <section class="card" aria-label="Progress">
      <div class="card-body stack">
        <${Meter} job=${job} label="Progress" />
        <div class="row between">
          <span class="number">${done}${job.state === "running" && job.progress.phase && html` <span class="muted">· ${job.progress.phase}</span>`}</span>
          <span class="muted number">${[duration(elapsed(job, now)), left].filter((text) => text && text !== "–").join(" · ")}</span>
        </div>
        ${tiles.length > 0 && html`<dl class="tiles">${tiles.map(([label, value, note]) => html`
          <div key=${label}><dt>${label}</dt><dd class="number" data-tile=${label}>${value}</dd>${note && html`<dd class="muted small number">${note}</dd>`}</div>`)}</dl>`}
      </div>
    </section>`;
}

function trainingTiles(job, { train, validation }) {
  const lowest = lowestValue(validation, "validation_loss");
  const tokens = Math.max(0, ...[train, validation].map((points) => points.at(-1)?.tokens ?? 0));
  return [
    ["Training loss", figure(lastValue(train, "loss"))],
    ["Validation loss", figure(lastValue(validation, "validation_loss")), lowest !== null && `lowest ${figure(lowest)}`],
    ["Bits per byte", figure(lastValue(validation, "bits_per_byte")), "on held-out text"],
    ["Speed", job.progress.tokens_per_second ? `${compact(job.progress.tokens_per_second)}/s` : "–", "tokens, median of recent steps"],
    ["Tokens seen", compact(tokens), job.attempt > 1 && `attempt ${integer(job.attempt)}`],
  ];
}
