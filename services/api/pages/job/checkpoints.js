// The checkpoints that are kept, and a way to serve one of them.
import { Failure } from "../components/basics.js";
import { bytes, figure, integer } from "../lib/format.js";
import { html, useState } from "../lib/html.js";
import { sendJson } from "../lib/api.js";

export function Checkpoints({ job, checkpoints, reload }) {
  const [name, setName] = useState(job.spec.model);
  const [busy, setBusy] = useState("");
  const [told, setTold] = useState("");
  const [error, setError] = useState(null);

  const publish = async (checkpoint) => {
    setBusy(checkpoint.id);
    setError(null);
    try {
      const model = await sendJson(`/v1/models/${encodeURIComponent(name)}/publish`, { checkpoint_id: checkpoint.id });
      setTold(`${model.name} now serves version ${model.served_version}.`);
      await reload();
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy("");
    }
  };
  const newest = [...checkpoints].reverse();
  return html`
    <section class="card" aria-label="Checkpoints">
      <div class="card-head"><h2>Checkpoints</h2>
        ${newest.length > 0 && html`<label class="check small">Publish as
          <input type="text" class="short" value=${name} onInput=${(event) => setName(event.target.value)} /></label>`}
      </div>
      ${newest.length === 0 && html`<p class="card-body muted">The first checkpoint comes at the first save.</p>`}
      ${newest.length > 0 && html`
        <table class="table">
          <thead><tr><th>Step</th><th>Validation loss</th><th>Size</th><th><span class="visually-hidden">Publish</span></th></tr></thead>
          <tbody>${newest.map((checkpoint) => html`
            <tr key=${checkpoint.id}>
              <td class="number" data-label="Step"><strong>${integer(checkpoint.step)}</strong> ${checkpoint.final && html`<span class="tag">final</span>`}
                ${checkpoint.versions.map((version) => html` <span key=${version} class="tag tag-live from-outside">${version}</span>`)}</td>
              <td class="number" data-label="Validation loss">${figure(checkpoint.metrics.validation_loss)}</td>
              <td class="number muted">${bytes(checkpoint.bytes)}</td>
              <td class="end"><button type="button" class="button button-small" disabled=${Boolean(busy)} onClick=${() => publish(checkpoint)}>
                ${busy === checkpoint.id ? "…" : "Publish"}</button></td>
            </tr>`)}</tbody>
        </table>`}
      <div class="card-foot" role="status">${told && html`<p class="small from-outside">${told}</p>`}</div>
      <${Failure} error=${error} />
    </section>`;
}
