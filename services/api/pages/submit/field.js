// One field of a job: its label, its control, its explanation, and what the platform has against it.
import { html, useEffect, useState } from "../lib/html.js";
import { capital } from "../lib/format.js";
import { ArtifactControl } from "./artifact.js";
import { parse, placeholder, textOf } from "./schema.js";

const CONTROLS = { text: TextControl, numbers: TextControl, lines: LinesControl, select: SelectControl, check: CheckControl, artifact: ArtifactControl };

export function Field({ field, value, error, id, onChange, context }) {
  const Control = CONTROLS[field.widget];
  const marks = { id, "aria-describedby": `${id}-help ${id}-error`, "aria-invalid": error ? "true" : undefined, "data-field": field.name };
  const help = [field.help, field.hint && `${capital(field.hint)}.`].filter(Boolean).join(" ");
  return html`
    <div class=${`field ${field.widget === "lines" ? "wide" : ""}`}>
      ${field.widget !== "check" && html`<label for=${id}><span>${capital(field.label)}${field.required && html` <span class="muted">required</span>`}</span></label>`}
      <${Control} field=${field} value=${value} onChange=${onChange} marks=${marks} context=${context} />
      <span id=${`${id}-error`} class="error">${error}</span>
      <span id=${`${id}-help`} class="help">${help}</span>
    </div>`;
}

// The text is kept as typed ("1." on its way to "1.5"); the value follows it.
function useText(field, value, onChange) {
  const [text, setText] = useState(() => textOf(field, value));
  useEffect(() => {
    if (textOf(field, parse(field, text)) !== textOf(field, value)) setText(textOf(field, value));
  }, [value]);
  return [text, (event) => {
    setText(event.target.value);
    onChange(parse(field, event.target.value));
  }];
}

function TextControl({ field, value, onChange, marks }) {
  const [text, onInput] = useText(field, value, onChange);
  return html`<input type="text" ...${marks} value=${text} placeholder=${placeholder(field)} autocomplete="off" spellcheck=${false} onInput=${onInput} />`;
}

function LinesControl({ field, value, onChange, marks }) {
  const [text, onInput] = useText(field, value ?? field.fallback, onChange);
  return html`<textarea ...${marks} value=${text} onInput=${onInput}></textarea>`;
}

function SelectControl({ field, value, onChange, marks }) {
  const { options, fallback, required } = field;
  const chosen = value === undefined ? -1 : options.indexOf(value);
  const standard = fallback === null || fallback === undefined ? "not set" : String(fallback);
  return html`
    <select ...${marks} value=${String(chosen)} onChange=${(event) => onChange(options[Number(event.target.value)])}>
      <option value="-1">${required ? "Choose …" : `Default: ${standard}`}</option>
      ${options.map((option, index) => html`<option key=${index} value=${String(index)}>${String(option)}</option>`)}
    </select>`;
}

function CheckControl({ field, value, onChange, marks }) {
  return html`
    <label class="check"><input type="checkbox" ...${marks} checked=${value ?? field.fallback ?? false}
      onChange=${(event) => onChange(event.target.checked)} />${capital(field.label)}</label>`;
}
