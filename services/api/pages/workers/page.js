// Who works and what waits: from the workers' own heartbeats and the rows of the jobs.
import { Badge, Empty, Failure, PageHead, Skeleton, useNow } from "../components/basics.js";
import { ago, integer } from "../lib/format.js";
import { html } from "../lib/html.js";
import { link } from "../lib/router.js";
import { useResource } from "../lib/resource.js";

const LIMIT = 100;

export function WorkersPage() {
  const workers = useResource("/v1/workers", { every: 3000 });
  const running = useResource(`/v1/jobs?state=running&limit=${LIMIT}`, { every: 3000 });
  const queued = useResource(`/v1/jobs?state=queued&limit=${LIMIT}`, { every: 3000 });
  const waiting = useResource(`/v1/jobs?state=waiting&limit=${LIMIT}`, { every: 3000 });
  const schemas = useResource("/v1/schemas");
  const jobs = running.data?.data ?? [];
  const list = workers.data?.data ?? [];
  return html`
    <${PageHead} title="Workers"><p>A worker counts as alive for one lease after its last sign of life.</p><//>
    <${Failure} error=${workers.error ?? queued.error} retry=${workers.reload} />
    <section class="card" aria-label="Workers">
      ${workers.loading && html`<${Skeleton} lines=${4} />`}
      ${workers.data && list.length === 0 && html`<${Empty} title="No workers"><p>Jobs wait until one starts. "ryangpt up" starts them all on one machine.</p><//>`}
      ${list.length > 0 && html`<${WorkerTable} workers=${list} jobs=${jobs} />`}
    </section>
    <section class="card" aria-label="Queue">
      <div class="card-head"><h2>Queue</h2>
        <span class="muted small number">${counted(queued, "queued")} · ${counted(waiting, "waiting for inputs")}</span></div>
      <${QueueTable} queued=${queued.data?.data ?? []} waiting=${waiting.data?.data ?? []} loading=${queued.loading} schemas=${schemas.data ?? {}} />
    </section>`;
}

const counted = ({ data }, word) => (data ? `${integer(data.data.length)}${data.has_more ? "+" : ""} ${word}` : "");

function WorkerTable({ workers, jobs }) {
  const now = useNow(1);
  return html`
    <table class="table">
      <thead><tr><th>Worker</th><th>State</th><th>Slots</th><th>At work on</th><th>Last sign</th></tr></thead>
      <tbody>${workers.map((worker) => {
        const busy = jobs.filter((job) => worker.running.includes(job.id));
        return html`
          <tr key=${worker.id}>
            <td class="full from-outside"><strong>${worker.id}</strong></td>
            <td><span class=${`badge ${worker.alive ? "badge-succeeded" : "badge-failed"}`}>${worker.alive ? "Alive" : "Gone"}</span></td>
            <td><span class="row">${Object.entries(worker.slots).map(([queue, number]) => html`<span key=${queue} class="tag number">${queue} × ${number}</span>`)}</span></td>
            <td>${busy.length ? busy.map((job) => html`<a key=${job.id} class="from-outside" href=${link(["jobs", job.id])}>${job.name} </a>`) : html`<span class="muted">${worker.running.length ? `${worker.running.length} job` : "idle"}</span>`}</td>
            <td class="muted number">${ago(worker.heartbeat_at, now)}</td>
          </tr>`;
      })}</tbody>
    </table>`;
}

// Who is next: by priority, then age, as the platform chooses.
function QueueTable({ queued, waiting, loading, schemas }) {
  const now = useNow();
  const inOrder = [...queued].sort((a, b) => b.priority - a.priority || (a.id < b.id ? -1 : 1));
  const places = new Map();
  if (loading) return html`<${Skeleton} lines=${3} />`;
  if (!queued.length && !waiting.length) return html`<p class="card-body muted">Nothing waits.</p>`;
  return html`
    <table class="table">
      <thead><tr><th>Job</th><th>State</th><th>Place</th><th>Priority</th><th>Since</th></tr></thead>
      <tbody>${[...inOrder, ...waiting].map((job) => {
        const queue = schemas[job.kind]?.["x-queue"] ?? job.kind;
        if (job.state === "queued") places.set(queue, (places.get(queue) ?? 0) + 1);
        return html`
          <tr key=${job.id}>
            <td class="full"><span class="name-cell"><a class="from-outside" href=${link(["jobs", job.id])}>${job.name}</a><span class="muted">${job.kind}</span></span></td>
            <td><${Badge} job=${job} /></td>
            <td class="number">${job.state === "queued" ? `${places.get(queue)} of ${queue}` : html`<span class="muted">its inputs first</span>`}</td>
            <td class="number">${job.priority}</td>
            <td class="muted number">${ago(job.created_at, now)}</td>
          </tr>`;
      })}</tbody>
    </table>`;
}
