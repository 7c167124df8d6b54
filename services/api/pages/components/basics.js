// Small parts that every page uses.
import { html, useEffect, useState } from "../lib/html.js";
import { copy } from "../lib/clipboard.js";
import { stateText, share } from "../lib/states.js";
import { capital, integer } from "../lib/format.js";

export const Badge = ({ job }) => html`
  <span class=${`badge badge-${job.state}`}>${capital(stateText(job))}</span>`;

export function Meter({ job, label }) {
  const part = share(job);
  const shown = part === null ? 0 : part;
  return html`
    <div class=${`meter meter-${job.state}`} role="progressbar" aria-label=${label}
      aria-valuemin="0" aria-valuemax="100" aria-valuenow=${Math.round(shown * 100)}>
      <i style=${{ width: `${shown * 100}%` }}></i>
    </div>`;
}

export const Skeleton = ({ lines = 5 }) => html`
  <div class="skeleton" role="status" aria-label="Loading">
    ${Array.from({ length: lines }, (_, index) => html`<i key=${index}></i>`)}
  </div>`;

export const Empty = ({ title, children }) => html`
  <div class="empty"><h2>${title}</h2>${children}</div>`;

// An error is for the person who reads it: what happened, what to do, and a way to try again.
export function Failure({ error, retry }) {
  if (!error) return null;
  return html`
    <div class="note note-bad" role="alert">
      <p><strong>${error.message}</strong></p>
      ${error.hint && html`<p>${error.hint}</p>`}
      ${retry && html`<p><button class="button button-small" type="button" onClick=${retry}>Try again</button></p>`}
    </div>`;
}

export function Segmented({ label, options, value, onChange }) {
  return html`
    <div class="segmented" role="group" aria-label=${label}>
      ${options.map((option) => html`
        <button key=${option.value} type="button" aria-pressed=${String(option.value === value)}
          onClick=${() => onChange(option.value)}>
          ${option.label}${option.count !== undefined && html`<span class="count">${integer(option.count)}</span>`}
        </button>`)}
    </div>`;
}

export function CopyButton({ text, label = "Copy", className = "button" }) {
  const [told, setTold] = useState("");
  useEffect(() => {
    const timer = told ? setTimeout(() => setTold(""), 2000) : 0;
    return () => clearTimeout(timer);
  }, [told]);
  const onClick = async () => setTold((await copy(text())) ? "Copied" : "Select and copy it below");
  return html`
    <button type="button" class=${className} onClick=${onClick}>
      <span aria-live="polite">${told || label}</span>
    </button>`;
}

// A heading that takes the focus when its page opens, so that a screen reader begins there.
export function PageHead({ title, children, actions }) {
  useEffect(() => {
    document.title = `${typeof title === "string" ? title : "Job"} · Ryan-GPT`;
  }, [title]);
  return html`
    <div class="page-head">
      <div><h1 tabindex="-1" class="from-outside">${title}</h1>${children}</div>
      ${actions && html`<div class="row">${actions}</div>`}
    </div>`;
}

// The present moment, renewed every `seconds`, for "2 min ago".
export function useNow(seconds = 5) {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    const timer = setInterval(() => document.hidden || setNow(Date.now()), seconds * 1000);
    return () => clearInterval(timer);
  }, [seconds]);
  return now;
}
