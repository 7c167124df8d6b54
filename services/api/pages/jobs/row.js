// One job in the list.
import { Badge, Meter } from "../components/basics.js";
import { Sparkline } from "../components/sparkline.js";
import { html } from "../lib/html.js";
import { hasEnded, TRAINS } from "../lib/states.js";
import { ago, bytes, compact, duration, elapsed, figure, integer, remaining } from "../lib/format.js";
import { link } from "../lib/router.js";

export function JobRow({ job, curve, now, picked, pick }) {
  const trains = TRAINS.has(job.kind);
  const loss = curve?.findLast(Number.isFinite);
  return html`
    <tr data-job=${job.id} data-state=${job.state}>
      <td class="pick">${trains && html`
        <input type="checkbox" checked=${picked} aria-label=${`Compare ${job.name} with other runs`}
          onChange=${(event) => pick(job.id, event.target.checked)} />`}</td>
      <td class="full-name"><span class="name-cell">
        <a class="from-outside" href=${link(["jobs", job.id])}>${job.name}</a>
        <span class="muted from-outside">${subtitle(job)}</span>
      </span></td>
      <td><${Badge} job=${job} /></td>
      <td class="full"><${Progress} job=${job} /></td>
      <td>${curve && html`<span class="row"><${Sparkline} values=${curve} /><span class="number small">${figure(loss)}</span></span>`}</td>
      <td class="number small">${timeText(job, now)}</td>
    </tr>`;
}

export function subtitle(job) {
  const model = job.spec.model ? ` · ${job.spec.model}` : "";
  const reused = job.reused_job_id ? " · reused" : "";
  return `${job.kind}${model}${reused}`;
}

function Progress({ job }) {
  if (job.state === "waiting") return html`<span class="muted small">for its inputs</span>`;
  if (job.state === "queued") return html`<span class="muted small">for a free worker</span>`;
  if (job.reused_job_id) return html`<span class="muted small">An equal job had already done it</span>`;
  return html`
    <span class="progress-cell">
      <${Meter} job=${job} label=${`Progress of ${job.name}`} />
      <span class="small"><span class="number">${stepText(job)}</span><span>${job.state === "running" && job.progress.phase}</span></span>
    </span>`;
}

export function stepText({ kind, state, progress }) {
  const { step, total_steps: total, message } = progress;
  if (!total) return message;
  if (TRAINS.has(kind)) return `${integer(step)} / ${integer(total)} steps`;
  if (state === "succeeded") return "";
  if (message === "bytes read") return `${bytes(step)} of ${bytes(total)}`;
  return `${compact(step)} of ${compact(total)}`;
}

function timeText(job, now) {
  if (job.state === "running" && job.progress.eta_seconds !== null) return `${remaining(job.progress.eta_seconds)} left`;
  if (hasEnded(job) && job.started_at) return html`${duration(elapsed(job))}<br /><span class="muted">${ago(job.finished_at, now)}</span>`;
  if (job.state === "running") return duration(elapsed(job, now));
  return html`<span class="muted">${ago(job.created_at, now)}</span>`;
}
