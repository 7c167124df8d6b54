// A single job of a kind, from its defaults, from a recipe's job of that kind, or as an earlier one.
import { Segmented } from "../components/basics.js";
import { capital } from "../lib/format.js";
import { html } from "../lib/html.js";
import { JobForm } from "./job-form.js";
import { errorAt, fieldsOf } from "./schema.js";

export function SingleForm({ schemas, recipes, job, setJob, errors }) {
  const kinds = Object.keys(schemas).map((kind) => ({ value: kind, label: capital(kind) }));
  const presets = recipes.flatMap((recipe) => Object.entries(recipe.jobs)
    .filter(([, one]) => one.kind === job.kind).map(([key, one]) => ({ label: `${recipe.name}: ${key}`, spec: one.spec })));
  const use = (event) => {
    const preset = presets[Number(event.target.value)];
    setJob({ ...job, spec: { ...inputsOf(job, schemas), ...withoutInputs(preset?.spec ?? {}, schemas[job.kind]) } });
  };
  return html`
    <${Segmented} label="Kind of job" options=${kinds} value=${job.kind} onChange=${(kind) => setJob({ kind, spec: {} })} />
    <section class="card">
      <div class="card-head">
        <div><h2>${capital(job.kind)}</h2><p class="muted small">${schemas[job.kind].$defs[schemas[job.kind].properties.spec.$ref.split("/").pop()].description}</p></div>
        ${presets.length > 0 && html`<label class="check small">Preset
          <select class="auto" onChange=${use}><option value="-1">Defaults</option>
            ${presets.map((preset, index) => html`<option key=${preset.label} value=${String(index)}>${preset.label}</option>`)}</select></label>`}
      </div>
      <div class="card-body stack">
        <div class="fields">
          <div class="field"><label for="job-name">Name</label>
            <input id="job-name" type="text" value=${job.name ?? ""} placeholder=${job.kind} aria-invalid=${errorAt(errors, "/name") ? "true" : undefined} aria-describedby="job-name-error"
              onInput=${(event) => setJob({ ...job, name: event.target.value || undefined })} />
            <span id="job-name-error" class="error">${errorAt(errors, "/name")}</span></div>
          <div class="field"><label for="job-priority">Priority</label>
            <input id="job-priority" type="text" inputmode="numeric" value=${job.priority ?? ""} placeholder="0" aria-invalid=${errorAt(errors, "/priority") ? "true" : undefined} aria-describedby="job-priority-error"
              onInput=${(event) => setJob({ ...job, priority: priorityOf(event.target.value) })} />
            <span id="job-priority-error" class="error">${errorAt(errors, "/priority")}</span><span class="help">-100 to 100; higher runs first.</span></div>
        </div>
        <${JobForm} key=${job.kind} schema=${schemas[job.kind]} job=${job} pointer="" errors=${errors} onChange=${setJob} earlier=${[]} />
      </div>
    </section>`;
}

const priorityOf = (text) => (text.trim() === "" ? undefined : /^-?\d+$/.test(text.trim()) ? Number(text) : text);

const inputNames = (schema) => new Set(fieldsOf(schema).filter((field) => field.artifact).map((field) => field.name));

// A recipe's inputs name its own jobs; what has been chosen here stays.
function withoutInputs(spec, schema) {
  const inputs = inputNames(schema);
  return Object.fromEntries(Object.entries(spec).filter(([name, value]) => !inputs.has(name) && !(typeof value === "string" && value.startsWith("$"))));
}

function inputsOf(job, schemas) {
  const inputs = inputNames(schemas[job.kind]);
  return Object.fromEntries(Object.entries(job.spec).filter(([name]) => inputs.has(name)));
}
