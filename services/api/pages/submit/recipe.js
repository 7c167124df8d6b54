// A recipe: which one, its files, and the jobs it makes of them, open to change.
import { Failure } from "../components/basics.js";
import { UploadBox } from "../components/upload.js";
import { bytes, capital, words } from "../lib/format.js";
import { html, useEffect, useState } from "../lib/html.js";
import { sendJson } from "../lib/api.js";
import { JobForm } from "./job-form.js";
import { errorAt, escaped } from "./schema.js";

export function RecipeForm({ recipes, schemas, chosen, choose, pipeline, setPipeline, errors }) {
  const recipe = recipes.find(({ name }) => name === chosen) ?? recipes[0];
  const [files, setFiles] = useState({});
  const [error, setError] = useState(null);
  const missing = Object.entries(recipe.parameters).filter(([key, { required }]) => required && !files[key]);
  const uploads = Object.fromEntries(Object.entries(files).map(([key, { id }]) => [key, id]));
  const wanted = JSON.stringify([recipe.name, uploads]);

  useEffect(() => setFiles({}), [recipe.name]);
  useEffect(() => {
    setPipeline(null);
    setError(null);
    if (missing.length) return undefined;
    let gone = false;
    sendJson(`/v1/recipes/${encodeURIComponent(recipe.name)}/pipeline`, { uploads }).then(
      (filled) => gone || setPipeline(filled),
      (problem) => gone || setError(problem),
    );
    return () => { gone = true; };
  }, [wanted]);

  return html`
    <fieldset class="recipes"><legend class="visually-hidden">Recipe</legend>
      ${recipes.map((one) => html`
        <label key=${one.name} class="recipe">
          <input type="radio" name="recipe" class="visually-hidden" checked=${one.name === recipe.name} onChange=${() => choose(one.name)} />
          <strong>${one.name}</strong><span class="muted small">${one.description.replaceAll("`", "")}</span>
        </label>`)}
    </fieldset>
    ${Object.entries(recipe.parameters).map(([key, parameter]) => html`
      <section key=${`${recipe.name}-${key}`} class="card"><div class="card-body stack">
        <div><h2>${capital(words(key))} ${!parameter.required && html`<span class="muted">optional</span>`}</h2><p class="muted small">${parameter.description}</p></div>
        ${files[key] ? html`<p class="row"><strong class="from-outside">${files[key].filename}</strong><span class="muted">${bytes(files[key].bytes)}</span>
            <button type="button" class="button button-small" onClick=${() => setFiles(without(files, key))}>Another file</button></p>`
          : html`<${UploadBox} help="Text, JSON lines, or either with gzip" onUploaded=${(upload) => setFiles({ ...files, [key]: upload })} />`}
      </div></section>`)}
    <${Failure} error=${error} />
    ${pipeline && html`<${PipelineForm} pipeline=${pipeline} setPipeline=${setPipeline} schemas=${schemas} errors=${errors} />`}`;
}

export function PipelineForm({ pipeline, setPipeline, schemas, errors }) {
  const keys = Object.keys(pipeline.jobs);
  const change = (key) => (job) => setPipeline({ ...pipeline, jobs: { ...pipeline.jobs, [key]: job } });
  const trains = (job) => job.kind === "train" || job.kind === "finetune";
  return html`
    <section class="card"><div class="card-body"><div class="field">
      <label for="pipeline-name">Name of the pipeline</label>
      <input id="pipeline-name" type="text" value=${pipeline.name} aria-invalid=${errorAt(errors, "/name") ? "true" : undefined} aria-describedby="pipeline-name-error"
        onInput=${(event) => setPipeline({ ...pipeline, name: event.target.value })} />
      <span id="pipeline-name-error" class="error">${errorAt(errors, "/name")}</span>
    </div></div></section>
    ${keys.map((key, index) => {
      const job = pipeline.jobs[key];
      const pointer = `/jobs/${escaped(key)}`;
      const wrong = errorAt(errors, pointer);
      const earlier = keys.slice(0, index).map((one) => ({ key: one, outputs: schemas[pipeline.jobs[one].kind]["x-outputs"] }));
      return html`
        <section key=${key} class="card"><details class="step" open=${trains(job) || Boolean(wrong)} data-job-key=${key}>
          <summary><span class="number step-number">${index + 1}</span><span class="step-name">${key}</span>${job.kind !== key && html`<span class="muted">${job.kind}</span>`}${wrong && html`<span class="error">to correct</span>`}</summary>
          <div class="stack"><${JobForm} schema=${schemas[job.kind]} job=${job} pointer=${pointer} errors=${errors} onChange=${change(key)} earlier=${earlier} /></div>
        </details></section>`;
    })}`;
}

const without = (files, key) => Object.fromEntries(Object.entries(files).filter(([one]) => one !== key));
