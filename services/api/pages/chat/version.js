// The version that answers. One version of a model is served at a time, to everybody: choosing
// another one pins it, and the choice says so.
import { Failure } from "../components/basics.js";
import { html, useState } from "../lib/html.js";
import { sendJson } from "../lib/api.js";
import { useResource } from "../lib/resource.js";

const NEWEST = "newest";

export function VersionChoice({ model, busy }) {
  const path = `/v1/models/${encodeURIComponent(model.id)}`;
  const { data, reload } = useResource(path, { every: 4000 });
  const [error, setError] = useState(null);
  const versions = data?.versions ?? [];
  const choose = async (event) => {
    const version = event.target.value === NEWEST ? null : Number(event.target.value);
    setError(null);
    try {
      await sendJson(`${path}/pin`, { version });
    } catch (problem) {
      setError(problem);
    }
    await reload();
  };
  const wanted = data?.pinned_version ?? data?.served_version;
  const loading = wanted != null && wanted !== model.version;
  return html`
    <div class="field"><label for="version">Version</label>
      <select id="version" disabled=${busy || !data} value=${data?.pinned_version != null ? String(data.pinned_version) : NEWEST} onChange=${choose}>
        <option value=${NEWEST}>As published (now ${data?.served_version ?? model.version})</option>
        ${versions.map((one) => html`<option key=${one.version} value=${String(one.version)}>${one.version}, step ${one.step}</option>`)}
      </select>
      <span class="help" role="status" data-answering=${model.version}>${loading ? `Loading version ${wanted}; version ${model.version} answers meanwhile.` : "A choice here holds for everybody who asks this model."}</span>
      <${Failure} error=${error} />
    </div>`;
}
