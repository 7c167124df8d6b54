// The first rows of a dataset as the model will meet them.
import { Failure, Skeleton } from "../components/basics.js";
import { html, useEffect, useRef } from "../lib/html.js";
import { useResource } from "../lib/resource.js";

const ROWS = 8;
const MAX_CHARS = 1500;

export function Preview({ id }) {
  const { data, error, loading, reload } = useResource(`/v1/datasets/${encodeURIComponent(id)}/preview?n=${ROWS}`);
  const section = useRef(null);
  useEffect(() => { if (data) section.current.scrollIntoView({ block: "nearest" }); }, [data]);
  return html`
    <section class="card" ref=${section} aria-label="Preview">
      <div class="card-head"><h2>Preview</h2><span class="muted small mono">${id}</span></div>
      <${Failure} error=${error} retry=${reload} />
      ${loading && html`<${Skeleton} />`}
      ${data && html`<ol class="preview">${data.rows.map((row, index) => html`<li key=${index}>${data.format === "dialogues" ? html`<${Dialogue} row=${row} />` : html`<p class="from-outside text">${cut(row.text ?? JSON.stringify(row))}</p>`}</li>`)}</ol>`}
    </section>`;
}

function Dialogue({ row }) {
  return html`${(row.messages ?? []).map(({ role, content }, index) => html`
    <p key=${index} class="from-outside text"><strong class="role">${role}</strong> ${cut(content)}</p>`)}`;
}

const cut = (text) => (text.length > MAX_CHARS ? `${text.slice(0, MAX_CHARS)} …` : text);
