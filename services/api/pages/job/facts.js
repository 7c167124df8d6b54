// What was asked for: the spec as submitted with defaults filled in, inputs and outputs.
import { CopyButton } from "../components/basics.js";
import { asCurl } from "../lib/clipboard.js";
import { html } from "../lib/html.js";
import { date, words } from "../lib/format.js";
import { link } from "../lib/router.js";
import { recall } from "../lib/preferences.js";

const FIRST = ["model", "max_steps", "epochs", "batch_size", "lr", "context_length", "num_layers", "d_model", "vocab_size", "source"];

export function Facts({ job }) {
  const order = [...FIRST.filter((key) => job.spec[key] != null), ...Object.keys(job.spec).filter((key) => !FIRST.includes(key) && job.spec[key] != null)];
  const request = { kind: job.kind, name: job.name, spec: job.spec };
  return html`
    <section class="card" aria-label="Details">
      <div class="card-head"><h2>Details</h2>
        <${CopyButton} className="button button-small" label="Copy as curl" text=${() => asCurl("/v1/jobs", request, { withToken: recall("signed-in", false) })} /></div>
      <div class="card-body stack">
        <dl class="facts">
          <dt>Id</dt><dd class="mono">${job.id}</dd>
          <dt>Submitted</dt><dd>${date(job.created_at)}</dd>
          ${Object.entries(job.inputs).map(([field, id]) => html`<dt key=${`in-${field}`}>${words(field)}</dt><dd class="mono">${id}</dd>`)}
          ${Object.entries(job.outputs).map(([type, id]) => html`<dt key=${`out-${type}`}>${words(type)} made</dt><dd class="mono">${artifact(type, id)}</dd>`)}
          ${job.reused_job_id && html`<dt>Reused</dt><dd class="mono"><a href=${link(["jobs", job.reused_job_id])}>${job.reused_job_id}</a></dd>`}
        </dl>
        <details>
          <summary>All ${order.length} fields of its spec</summary>
          <dl class="facts">${order.map((key) => html`<dt key=${key}>${words(key)}</dt><dd class="mono from-outside">${shown(job.spec[key])}</dd>`)}</dl>
        </details>
      </div>
    </section>`;
}

const artifact = (type, id) => (type === "dataset" || type === "tokens" ? html`<a href=${link(["data"], { show: id })}>${id}</a>` : id);

const shown = (value) => (typeof value === "string" ? value : JSON.stringify(value));
