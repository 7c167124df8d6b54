// The report of a run. Its Markdown becomes elements, never HTML text.
import { Failure, PageHead, Skeleton } from "../components/basics.js";
import { Markdown } from "../components/markdown.js";
import { getJson, getText } from "../lib/api.js";
import { html, useEffect, useState } from "../lib/html.js";
import { link } from "../lib/router.js";

export function ReportPage({ route }) {
  const id = route.parts[1];
  const base = `/v1/jobs/${encodeURIComponent(id)}`;
  const [state, setState] = useState({ job: null, text: null, error: null });
  useEffect(() => {
    Promise.all([getJson(base), getText(`${base}/report`)]).then(
      ([job, text]) => setState({ job, text, error: null }),
      (error) => setState({ job: null, text: null, error }),
    );
  }, [base]);
  const { job, text, error } = state;
  return html`
    <${PageHead} title=${job ? `Report: ${job.name}` : "Report"} actions=${html`
      <a class="button" href=${link(["jobs", id])}>Back to the job</a>
      <a class="button" href=${`${base}/report`} download=${`${id}.md`}>Download</a>`} />
    <${Failure} error=${error} />
    ${!job && !error && html`<section class="card"><${Skeleton} lines=${10} /></section>`}
    ${job && html`
      <article class="card"><div class="card-body prose">
        <${Markdown} text=${text} images=${{ "plot.svg": `${base}/plot.svg` }} />
      </div></article>`}`;
}
