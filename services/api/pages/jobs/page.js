// The list of jobs, live, by pipeline.
import { Empty, Failure, PageHead, Segmented, Skeleton, useNow } from "../components/basics.js";
import { html, useState } from "../lib/html.js";
import { AT_WORK } from "../lib/states.js";
import { go, link } from "../lib/router.js";
import { useResource } from "../lib/resource.js";
import { JobRow } from "./row.js";
import { useJobs } from "./live.js";
import { useSparklines } from "./sparklines.js";

const FILTERS = {
  all: ["All", () => true],
  active: ["Active", (job) => AT_WORK.has(job.state)],
  succeeded: ["Succeeded", (job) => job.state === "succeeded"],
  failed: ["Failed", (job) => job.state === "failed" || job.state === "cancelled"],
};
const MAX_COMPARED = 10;

export function JobsPage({ route }) {
  const { jobs, linked, older, loadOlder } = useJobs();
  const filter = FILTERS[route.query.get("show")] ? route.query.get("show") : "all";
  const shown = (jobs ?? []).filter(FILTERS[filter][1]);
  const curves = useSparklines(shown);
  const [picked, setPicked] = useState([]);
  const pick = (id, on) => setPicked((before) => [...before.filter((one) => one !== id), ...(on ? [id] : [])].slice(-MAX_COMPARED));
  const options = Object.entries(FILTERS).map(([value, [label, test]]) => ({
    value, label, count: jobs ? jobs.filter(test).length : undefined,
  }));
  return html`
    <${PageHead} title="Jobs" actions=${picked.length > 1 && html`
      <a class="button" href=${link(["compare"], { jobs: picked.join(",") })}>Compare ${picked.length} runs</a>`}>
      <p>Every step from text to a model that answers, as it happens.</p>
    <//>
    ${!linked && html`<div class="note note-warn" role="status">The connection to the platform is lost. What you see may be old; it is being tried again.</div>`}
    <${Segmented} label="Show" options=${options} value=${filter} onChange=${(show) => go(["jobs"], show === "all" ? {} : { show })} />
    <section class="card" aria-label="Jobs">
      ${jobs === null && html`<${Skeleton} lines=${8} />`}
      ${jobs?.length === 0 && html`<${Nothing} />`}
      ${jobs?.length > 0 && shown.length === 0 && html`<${Empty} title="None here"><p>No job is in this state.</p><//>`}
      ${shown.length > 0 && html`<${JobTable} jobs=${shown} curves=${curves} picked=${picked} pick=${pick} />`}
    </section>
    <${Failure} error=${older.error} />
    ${older.more && html`
      <div><button type="button" class="button" disabled=${older.busy} onClick=${loadOlder}>
        ${older.busy ? "Loading …" : "Load older jobs"}</button></div>`}`;
}

const Nothing = () => html`
  <${Empty} title="No jobs yet">
    <p>The quickstart makes a small chat model from this machine's own Python documentation. It needs no download and no file.</p>
    <a class="button button-primary" href=${link(["new"], { recipe: "quickstart" })}>Start the quickstart</a>
  <//>`;

function JobTable({ jobs, curves, picked, pick }) {
  const now = useNow();
  const row = (job) => html`
    <${JobRow} key=${job.id} job=${job} curve=${curves[job.id]} now=${now} picked=${picked.includes(job.id)} pick=${pick} />`;
  return html`
    <table class="table jobs">
      <thead><tr>
        <th class="pick"><span class="visually-hidden">Compare</span></th>
        <th>Job</th><th>State</th><th>Progress</th><th>Loss</th><th>Time</th>
      </tr></thead>
      ${groups(jobs).map(({ pipeline, members }) => html`
        <tbody key=${members[0].id}>
          ${pipeline && html`<${PipelineHead} id=${pipeline} members=${members} />`}
          ${members.map(row)}
        </tbody>`)}
    </table>`;
}

function PipelineHead({ id, members }) {
  const { data } = useResource(`/v1/pipelines/${id}`);
  const done = members.filter((job) => job.state === "succeeded").length;
  return html`
    <tr class="group"><th colspan="6" scope="rowgroup"><span>
      <span class="from-outside">${data?.name ?? "Pipeline"}</span>
      <span class="muted number">${done} of ${members.length} done</span>
    </span></th></tr>`;
}

// Jobs of one pipeline stand together, first step first, where its newest one belongs.
function groups(jobs) {
  const found = new Map();
  for (const job of jobs) {
    const key = job.pipeline_id ?? job.id;
    if (!found.has(key)) found.set(key, { pipeline: job.pipeline_id, members: [] });
    found.get(key).members.unshift(job);
  }
  return [...found.values()];
}
