// The fields of one job: what matters first, the rest on demand.
import { html } from "../lib/html.js";
import { errorAt, escaped, fieldsOf } from "./schema.js";
import { Field } from "./field.js";

const FIRST = new Set([
  "source", "name", "vocab_size", "validation_fraction", "max_steps", "batch_size", "lr", "context_length", "num_layers", "d_model",
  "num_heads", "d_ff", "format", "max_documents",
]);

// `pointer` is where the job stands in the document that is sent; `earlier` its pipeline's jobs
// before it, {key, outputs}.
export function JobForm({ schema, job, pointer, errors, onChange, earlier }) {
  const fields = fieldsOf(schema);
  const isFirst = (field) => field.required || FIRST.has(field.name) || (field.widget === "artifact" && field.name !== "resume_from");
  const rest = fields.filter((field) => !isFirst(field));
  const set = (name) => (value) => {
    const spec = { ...job.spec };
    if (value === undefined) delete spec[name];
    else spec[name] = value;
    onChange({ ...job, spec });
  };
  const row = (field) => {
    const at = `${pointer}/spec/${escaped(field.name)}`;
    return html`<${Field} key=${field.name} id=${`field${at.replaceAll("/", "-")}`} field=${field} value=${job.spec[field.name]}
      error=${errorAt(errors, at)} onChange=${set(field.name)} context=${{ earlier }} />`;
  };
  const wrong = rest.filter((field) => errorAt(errors, `${pointer}/spec/${escaped(field.name)}`)).length;
  return html`
    <div class="fields">${fields.filter(isFirst).map(row)}</div>
    ${rest.length > 0 && html`
      <details open=${wrong > 0 || undefined}>
        <summary>${rest.length} more options${wrong > 0 && html` <span class="error">${wrong} to correct</span>`}</summary>
        <div class="fields">${rest.map(row)}</div>
      </details>`}`;
}
