// What the model says as it learns, and what happened to its job.
import { html, useState } from "../lib/html.js";
import { capital, date, integer } from "../lib/format.js";

export function Samples({ events, job }) {
  const samples = events.filter((entry) => entry.type === "sample");
  const steps = [...new Set(samples.map((entry) => entry.data.step))].sort((a, b) => b - a);
  const [chosen, setChosen] = useState(null);
  const step = steps.includes(chosen) ? chosen : steps[0];
  const newest = new Map(samples.filter((entry) => entry.data.step === step).map((entry) => [entry.data.prompt, entry.data]));
  return html`
    <section class="card" aria-label="Samples">
      <div class="card-head"><h2>Samples</h2>
        ${steps.length > 0 && html`<label class="check small">Step
          <select class="auto" value=${String(step)} onChange=${(event) => setChosen(Number(event.target.value))}>
            ${steps.map((one) => html`<option key=${one} value=${String(one)}>${integer(one)}</option>`)}
          </select></label>`}
      </div>
      <div class="card-body stack">
        ${newest.size === 0 && html`<p class="muted">Its prompts are completed at each evaluation.</p>`}
        ${[...newest.values()].map(({ prompt, text }) => html`
          <div key=${prompt} class="sample from-outside"><span class="sample-prompt">${prompt}</span>${job.kind === "train" ? "" : html`<br />`}<span>${text}</span></div>`)}
      </div>
    </section>`;
}

const LEVELS = { warning: "tag-warn", error: "tag-bad" };

export function History({ events }) {
  const shown = events.filter((entry) => entry.type !== "sample" && entry.type !== "phase").reverse();
  return html`
    <section class="card" aria-label="History">
      <div class="card-head"><h2>History</h2></div>
      <ol class="history" tabindex="0" aria-label="Events, newest first">
        ${shown.map((entry) => html`
          <li key=${entry.seq}>
            <time class="muted small number" datetime=${entry.at}>${date(entry.at)}</time>
            <span class="from-outside">${LEVELS[entry.data.level] && html`<span class=${`tag ${LEVELS[entry.data.level]}`}>${entry.data.level}</span> `}${sentence(entry)}</span>
          </li>`)}
      </ol>
    </section>`;
}

function sentence({ type, attempt, data }) {
  if (type === "notice") return data.message;
  if (type === "checkpoint") return `Checkpoint at step ${integer(data.step)}`;
  if (type === "output") return `${capital(String(data.output ?? data.type ?? "output"))} is there`;
  if (type !== "state") return capital(type);
  const again = attempt > 1 && data.state === "running" ? `, attempt ${attempt}` : "";
  const from = Number.isFinite(data.resume_step) ? `, from step ${integer(data.resume_step)}` : "";
  return `${capital(data.state)}${again}${from}`;
}
