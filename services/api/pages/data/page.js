// Files, datasets and tokens: what is there, a look inside, and a way to bring more.
import { Empty, Failure, PageHead, Skeleton } from "../components/basics.js";
import { UploadBox } from "../components/upload.js";
import { bytes, compact, date } from "../lib/format.js";
import { html, useState } from "../lib/html.js";
import { link } from "../lib/router.js";
import { useResource } from "../lib/resource.js";
import { IngestBox } from "./ingest.js";
import { Preview } from "./preview.js";

export function DataPage({ route }) {
  const datasets = useResource("/v1/datasets?limit=100", { every: 5000 });
  const uploads = useResource("/v1/uploads?limit=100");
  const [fresh, setFresh] = useState(null);
  const [shown, setShown] = useState(route.query.get("show"));
  return html`
    <${PageHead} title="Data"><p>Bring text or dialogues; what jobs have made of them stands below.</p><//>
    <div class="halves">
      <section class="card" aria-label="Upload"><div class="card-body stack">
        <h2>Upload</h2>
        <${UploadBox} help="Plain text, JSON lines with a field text, or dialogues; gzip is fine" onUploaded=${(upload) => { setFresh(upload); uploads.reload(); }} />
        ${fresh && html`<${IngestBox} key=${fresh.id} upload=${fresh} />`}
      </div></section>
      <${Uploads} uploads=${uploads} onIngest=${setFresh} />
    </div>
    <section class="card" aria-label="Datasets">
      <div class="card-head"><h2>Datasets and tokens</h2></div>
      <${Failure} error=${datasets.error} retry=${datasets.reload} />
      ${datasets.loading && html`<${Skeleton} />`}
      ${datasets.data?.data.length === 0 && html`
        <${Empty} title="No data yet"><p>Upload a file above, or start the quickstart, which brings its own.</p>
          <a class="button" href=${link(["new"], { recipe: "quickstart" })}>Start the quickstart</a><//>`}
      ${datasets.data?.data.length > 0 && html`<${Table} datasets=${datasets.data.data} shown=${shown} show=${setShown} />`}
    </section>
    ${shown && html`<${Preview} key=${shown} id=${shown} />`}`;
}

function Table({ datasets, shown, show }) {
  return html`
    <table class="table">
      <thead><tr><th>Name</th><th>Content</th><th>Size</th><th>Made</th><th><span class="visually-hidden">Look inside</span></th></tr></thead>
      <tbody>${datasets.map((one) => html`
        <tr key=${one.id}>
          <td class="full"><span class="name-cell"><a class="from-outside" href=${link(["jobs", one.job_id])}>${one.name}</a><span class="muted">${one.type}</span></span></td>
          <td class="number">${content(one.manifest.meta)}</td>
          <td class="number">${bytes(one.bytes)}</td>
          <td class="muted number">${date(one.created_at)}</td>
          <td class="end">${one.type === "dataset" && html`<button type="button" class="button button-small" aria-pressed=${String(shown === one.id)}
            aria-label=${`Preview ${one.name}`} onClick=${() => show(shown === one.id ? null : one.id)}>Preview</button>`}</td>
        </tr>`)}</tbody>
    </table>`;
}

function content(meta) {
  if (meta.type === "dataset") return `${compact(meta.documents)} ${meta.format}`;
  if (meta.type === "tokens") return `${compact(meta.train.tokens)} tokens of ${meta.format}`;
  return "–";
}

function Uploads({ uploads, onIngest }) {
  const list = uploads.data?.data ?? [];
  return html`
    <section class="card" aria-label="Uploads">
      <div class="card-head"><h2>Uploaded files</h2></div>
      <${Failure} error=${uploads.error} retry=${uploads.reload} />
      ${uploads.loading && html`<${Skeleton} lines=${3} />`}
      ${uploads.data && list.length === 0 && html`<p class="card-body muted">None yet.</p>`}
      ${list.length > 0 && html`
        <table class="table"><thead><tr><th>File</th><th>Size</th><th><span class="visually-hidden">Ingest</span></th></tr></thead>
          <tbody>${list.map((one) => html`
            <tr key=${one.id}><td class="from-outside full">${one.filename}</td><td class="number">${one.state === "ready" ? bytes(one.bytes) : "incomplete"}</td>
              <td class="end">${one.state === "ready" && html`<button type="button" class="button button-small" aria-label=${`Make a dataset of ${one.filename}`} onClick=${() => onIngest(one)}>Make a dataset</button>`}</td></tr>`)}</tbody>
        </table>`}
    </section>`;
}
