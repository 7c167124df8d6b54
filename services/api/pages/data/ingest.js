// From an uploaded file to a dataset in one step.
import { html, useState } from "../lib/html.js";
import { Failure, Segmented } from "../components/basics.js";
import { go } from "../lib/router.js";
import { sendJson } from "../lib/api.js";

const SOURCES = [{ value: "text", label: "Plain text" }, { value: "jsonl", label: "JSON lines" }, { value: "dialogues", label: "Dialogues" }];
const HELP = {
  text: "Documents end at a line <|endoftext|>; without any, the file is cut at paragraphs.",
  jsonl: "One JSON object a line, its text in the field text.",
  dialogues: 'One {"messages": [{"role": "user", "content": "…"}, …]} a line.',
};

export function IngestBox({ upload }) {
  const [source, setSource] = useState(/jsonl?(\.gz)?$/.test(upload.filename) ? "jsonl" : "text");
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState(null);
  const start = async () => {
    setBusy(true);
    setError(null);
    try {
      const name = upload.filename.replace(/(\.(txt|jsonl|json))?(\.gz)?$/, "") || upload.filename;
      const job = await sendJson("/v1/jobs", { kind: "ingest", name, spec: { source, upload: upload.id, name } });
      go(["jobs", job.id]);
    } catch (problem) {
      setError(problem);
      setBusy(false);
    }
  };
  return html`
    <div class="stack ingest" data-upload=${upload.id}>
      <p><strong class="from-outside">${upload.filename}</strong> is there. What is it?</p>
      <div><${Segmented} label="Kind of file" options=${SOURCES} value=${source} onChange=${setSource} /></div>
      <p class="muted small">${HELP[source]}</p>
      <${Failure} error=${error} />
      <div><button type="button" class="button button-primary" disabled=${busy} onClick=${start}>Make a dataset</button></div>
    </div>`;
}
