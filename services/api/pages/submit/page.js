// A new job or pipeline: filled in, checked by the platform as one types, sent.
import { CopyButton, Failure, PageHead, Segmented, Skeleton } from "../components/basics.js";
import { asCurl } from "../lib/clipboard.js";
import { capital, compact, integer } from "../lib/format.js";
import { getJson, sendJson } from "../lib/api.js";
import { go } from "../lib/router.js";
import { html, useEffect, useMemo, useState } from "../lib/html.js";
import { recall } from "../lib/preferences.js";
import { Leftover, useCatalogue, useVerdict } from "./draft.js";
import { RecipeForm } from "./recipe.js";
import { SingleForm } from "./single.js";

const MODES = [{ value: "recipe", label: "Recipe" }, { value: "job", label: "Single job" }];

export function SubmitPage({ route }) {
  const { schemas, recipes, error, reload } = useCatalogue();
  const from = route.query.get("from");
  const [mode, setMode] = useState(from || route.query.get("kind") ? "job" : "recipe");
  const [recipe, setRecipe] = useState(route.query.get("recipe") ?? "quickstart");
  const [pipeline, setPipeline] = useState(null);
  const [job, setJob] = useState({ kind: route.query.get("kind") ?? "train", spec: {} });
  const template = useTemplate(from, setJob);
  const draft = mode === "recipe" ? pipeline && { path: "/v1/pipelines", document: pipeline } : { path: "/v1/jobs", document: job };
  const [verdict, setVerdict] = useVerdict(schemas && draft);
  const [touched, setTouched] = useState(false);
  const key = useMemo(newKey, [JSON.stringify(draft)]);
  const all = verdict.error?.errors ?? [];
  // Before the first attempt to send, an empty form is not full of reproaches.
  const errors = touched || mode === "recipe" ? all : all.filter((one) => one.detail !== "this field is required");
  if (error || template) return html`<${PageHead} title="New job" /><${Failure} error=${error ?? template} retry=${reload} />`;
  if (!schemas) return html`<${PageHead} title="New job" /><section class="card"><${Skeleton} lines=${8} /></section>`;
  return html`
    <${PageHead} title="New job"><p>A recipe makes all the steps from text to a model; a single job is one of them.</p><//>
    <form class="split" onSubmit=${(event) => { event.preventDefault(); setTouched(true); send(draft, key, setVerdict); }}>
      <div class="stack">
        <div><${Segmented} label="What to make" options=${MODES} value=${mode} onChange=${setMode} /></div>
        ${mode === "recipe"
          ? html`<${RecipeForm} recipes=${recipes} schemas=${schemas} chosen=${recipe} choose=${setRecipe} pipeline=${pipeline} setPipeline=${setPipeline} errors=${errors} />`
          : html`<${SingleForm} schemas=${schemas} recipes=${recipes} job=${job} setJob=${setJob} errors=${errors} />`}
      </div>
      <${Summary} draft=${draft} verdict=${verdict} errors=${errors} touched=${touched} mode=${mode} />
    </form>`;
}

// One key for one content: sent again after a broken connection, it still makes one job.
const newKey = () => [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");

async function send(draft, key, setVerdict) {
  if (!draft) return;
  setVerdict({ state: "sending" });
  try {
    const answer = await sendJson(draft.path, draft.document, { headers: { "Idempotency-Key": key } });
    go(draft.path === "/v1/jobs" ? ["jobs", answer.id] : ["jobs"]);
  } catch (error) {
    setVerdict({ state: "invalid", error });
    setTimeout(() => document.querySelector('[aria-invalid="true"]')?.focus());
  }
}

function useTemplate(id, setJob) {
  const [error, setError] = useState(null);
  useEffect(() => {
    if (!id) return;
    getJson(`/v1/jobs/${encodeURIComponent(id)}`).then(({ kind, name, spec, inputs }) => {
      const given = Object.entries({ ...spec, ...inputs }).filter(([, value]) => value !== null);
      setJob({ kind, name, spec: Object.fromEntries(given) });
    }, setError);
  }, [id]);
  return error;
}

function Summary({ draft, verdict, errors, touched, mode }) {
  const sending = verdict.state === "sending";
  const incomplete = verdict.state === "invalid" && !touched && mode === "job" && errors.length === 0;
  return html`
    <aside class="card sticky" aria-label="Summary"><div class="card-body stack">
      <div role="status" data-verdict=${verdict.state}>
        ${!draft && html`<p class="muted">Bring the file that the recipe needs.</p>`}
        ${verdict.state === "asking" && html`<p class="muted">Checking …</p>`}
        ${verdict.state === "valid" && html`<p class="ready">Ready to start</p>`}
        ${incomplete && html`<p class="muted">Fill in the required fields.</p>`}
        ${verdict.state === "invalid" && !incomplete && html`<p class="error">${errors.length === 1 ? "One thing" : `${Math.max(errors.length, 1)} things`} to correct</p>`}
      </div>
      ${verdict.state === "invalid" && !incomplete && html`<${Leftover} error=${verdict.error} pointers=${mode === "recipe" ? ["/jobs/", "/name"] : ["/spec/", "/name", "/priority"]} />`}
      ${verdict.estimate && html`<${Estimate} estimate=${verdict.estimate} />`}
      <button class="button button-primary" disabled=${!draft || sending}>${sending ? "Starting …" : mode === "recipe" ? "Start pipeline" : "Start job"}</button>
      ${draft && html`
        <${CopyButton} label="Copy as curl" text=${() => asCurl(draft.path, draft.document, { withToken: recall("signed-in", false) })} />
        <details><summary>The request</summary><pre class="request from-outside" tabindex="0">${`POST ${draft.path}\n${JSON.stringify(draft.document, null, 2)}`}</pre></details>`}
    </div></aside>`;
}

function Estimate({ estimate }) {
  const jobs = estimate.jobs ? Object.entries(estimate.jobs) : [["", estimate]];
  const rows = jobs.flatMap(([key, one]) => [
    one.num_parameters != null && [key, "parameters", compact(one.num_parameters), integer(one.num_parameters)],
    one.tokens_per_step != null && [key, "tokens a step", integer(one.tokens_per_step)],
  ].filter(Boolean));
  if (!rows.length) return null;
  return html`<dl class="facts small">${rows.map(([key, label, value, exact]) => html`<dt key=${key + label}>${capital([key, label].filter(Boolean).join(": "))}</dt><dd class="number" title=${exact}>${value}</dd>`)}</dl>`;
}
