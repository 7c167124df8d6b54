// Models by name: what is served, what was published, and which version shall be served.
import { Empty, Failure, PageHead, Skeleton } from "../components/basics.js";
import { date, figure, integer } from "../lib/format.js";
import { html, useState } from "../lib/html.js";
import { link } from "../lib/router.js";
import { sendJson } from "../lib/api.js";
import { useResource } from "../lib/resource.js";

export function ModelsPage() {
  const { data, error, loading, reload } = useResource("/v1/models", { every: 4000 });
  const served = useResource("/inference/v1/models", { every: 4000 });
  const models = data?.data ?? [];
  return html`
    <${PageHead} title="Models"><p>Each published checkpoint is a version. New ones are loaded while the old one goes on answering.</p><//>
    <${Failure} error=${error} retry=${reload} />
    ${served.error && html`<div class="note note-warn">${served.error.message} ${served.error.hint}</div>`}
    ${loading && html`<section class="card"><${Skeleton} /></section>`}
    ${data && models.length === 0 && html`<section class="card"><${Empty} title="No models yet"><p>A training job publishes its checkpoints under the name of its model.</p>
      <a class="button button-primary" href=${link(["new"])}>Train one</a><//></section>`}
    ${models.map((model) => html`<${Model} key=${model.name} model=${model} live=${(served.data?.data ?? []).find((one) => one.id === model.name)} reload=${reload} />`)}`;
}

function Model({ model, live, reload }) {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const pin = async (version) => {
    setBusy(true);
    setError(null);
    try {
      await sendJson(`/v1/models/${encodeURIComponent(model.name)}/pin`, { version });
      await reload();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy(false);
    }
  };
  return html`
    <section class="card" aria-label=${model.name}>
      <div class="card-head">
        <div class="row"><h2 class="from-outside">${model.name}</h2>
          ${live ? html`<span class="tag tag-live">answering with version ${live.version}</span>` : html`<span class="tag">not loaded</span>`}
          ${model.pinned_version !== null && html`<span class="tag tag-warn">pinned to ${model.pinned_version}</span>`}</div>
        <div class="row">
          ${model.pinned_version !== null && html`<button type="button" class="button button-small" disabled=${busy} onClick=${() => pin(null)}>Lift the pin</button>`}
          <a class="button button-small" href=${link(["chat"], { model: model.name })}>Chat</a></div>
      </div>
      <${Failure} error=${error} />
      <table class="table">
        <thead><tr><th>Version</th><th>Step</th><th>Validation loss</th><th>Bits per byte</th><th>Published</th><th><span class="visually-hidden">Pin</span></th></tr></thead>
        <tbody>${model.versions.map((one) => html`
          <tr key=${one.version}>
            <td class="number" data-label="Version"><strong>${one.version}</strong> ${one.version === model.served_version && html`<span class="tag tag-live">served</span>`}</td>
            <td class="number" data-label="Step"><a href=${link(["jobs", one.job_id])}>${integer(one.step)}</a> <span class="muted">${one.stage}</span></td>
            <td class="number" data-label="Validation loss">${figure(one.metrics.validation_loss)}</td>
            <td class="number" data-label="Bits per byte">${figure(one.metrics.bits_per_byte)}</td>
            <td class="muted number">${date(one.created_at)}</td>
            <td class="end"><button type="button" class="button button-small" disabled=${busy || model.pinned_version === one.version}
              aria-label=${`Pin ${model.name} to version ${one.version}`} onClick=${() => pin(one.version)}>Pin</button></td>
          </tr>`)}</tbody>
      </table>
    </section>`;
}
