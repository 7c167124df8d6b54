// What can be asked of a job.
import { Confirm } from "../components/dialog.js";
import { Failure } from "../components/basics.js";
import { actionsOf, hasEnded } from "../lib/states.js";
import { capital } from "../lib/format.js";
import { go, link } from "../lib/router.js";
import { html, useState } from "../lib/html.js";
import { sendJson } from "../lib/api.js";

export function Actions({ job, onChanged }) {
  const [busy, setBusy] = useState("");
  const [error, setError] = useState(null);
  const [asking, setAsking] = useState(false);

  const ask = async (action) => {
    setBusy(action);
    setError(null);
    try {
      const answer = await sendJson(`/v1/jobs/${job.id}/${action}`);
      if (action === "retry") go(["jobs", answer.id]);
      else onChanged(answer);
    } catch (problem) {
      setError(problem);
    } finally {
      setBusy("");
    }
  };
  return html`
    ${actionsOf(job).map((action) => html`
      <button key=${action} type="button" disabled=${Boolean(busy)} class=${`button ${action === "cancel" ? "button-danger" : ""}`}
        onClick=${() => (action === "cancel" ? setAsking(true) : ask(action))}>
        ${busy === action ? "…" : capital(action)}
      </button>`)}
    <a class="button" href=${link(["new"], { from: job.id })}>${hasEnded(job) ? "Run again" : "Use as template"}</a>
    <a class="button" href=${link(["jobs", job.id, "report"])}>Report</a>
    ${error && html`<div class="full-row"><${Failure} error=${error} /></div>`}
    ${asking && html`<${Confirm} question="Cancel this job?" action="Cancel the job" onConfirm=${() => ask("cancel")} onClose=${() => setAsking(false)}
      detail="The step it is in is dropped, and jobs that wait for it are cancelled too. Checkpoints stay." />`}`;
}
