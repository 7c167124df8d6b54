// An input of a job: something that is there, what an earlier job of the pipeline will put out, a
// new file, or an id.
import { UploadBox } from "../components/upload.js";
import { html, useEffect, useState } from "../lib/html.js";
import { getJson } from "../lib/api.js";
import { bytes, date } from "../lib/format.js";
import { placeholder } from "./schema.js";

const BY_ID = "by-id";

export function ArtifactControl({ field, value, onChange, marks, context }) {
  const { options, add } = useOptions(field.artifact, context);
  const [typing, setTyping] = useState(false);
  const key = value === undefined || value === null ? "" : JSON.stringify(value);
  const known = options.some((option) => JSON.stringify(option.value) === key);
  const byId = typing || (key !== "" && !known && typeof value === "string");
  const choose = (event) => {
    setTyping(event.target.value === BY_ID);
    onChange(event.target.value && event.target.value !== BY_ID ? JSON.parse(event.target.value) : undefined);
  };
  return html`
    <select ...${marks} value=${byId ? BY_ID : key} onChange=${choose}>
      <option value="">${field.required ? "Choose …" : placeholder(field)}</option>
      ${options.map((option) => html`<option key=${JSON.stringify(option.value)} value=${JSON.stringify(option.value)}>${option.label}</option>`)}
      ${key !== "" && !known && !byId && html`<option value=${key}>${key}</option>`}
      <option value=${BY_ID}>Enter an id …</option>
    </select>
    ${byId && html`<input type="text" aria-label=${`Id for ${field.label}`} value=${value ?? ""} spellcheck=${false} placeholder="ds_… or ckpt_…"
      onInput=${(event) => onChange(event.target.value.trim() || undefined)} />`}
    ${field.artifact === "upload" && html`<${UploadBox} label="Or upload a file" help="Plain or gzip" onUploaded=${(upload) => { add(uploadOption(upload)); onChange(upload.id); }} />`}`;
}

// Earlier jobs of the pipeline first, then what the platform holds, newest first.
function useOptions(type, { earlier = [] }) {
  const [stored, setStored] = useState([]);
  useEffect(() => {
    LISTS[type]().then(setStored, () => setStored([])); // an id can still be entered
  }, [type]);
  const outputs = earlier.filter((job) => job.outputs.includes(type)).map((job) => ({
    value: { job: job.key, output: type }, label: `From the job "${job.key}"`,
  }));
  return { options: [...outputs, ...stored], add: (option) => setStored((before) => [option, ...before]) };
}

const artifacts = (path, type) => async () => (await getJson(`${path}?limit=100`)).data
  .filter((artifact) => artifact.type === type)
  .map((artifact) => ({ value: artifact.id, label: `${artifact.name} · ${bytes(artifact.bytes)} · ${date(artifact.created_at)}` }));

const uploadOption = (upload) => ({ value: upload.id, label: `${upload.filename} · ${bytes(upload.bytes)}` });

const LISTS = {
  dataset: artifacts("/v1/datasets", "dataset"),
  tokens: artifacts("/v1/datasets", "tokens"),
  tokenizer: artifacts("/v1/tokenizers", "tokenizer"),
  export: artifacts("/v1/exports", "export"),
  upload: async () => (await getJson("/v1/uploads?limit=100")).data.filter((upload) => upload.state === "ready").map(uploadOption),
  checkpoint: async () => (await getJson("/v1/models")).data.flatMap((model) => model.versions.map((version) => ({
    value: version.checkpoint_id, label: `${model.name}:${version.version} · step ${version.step}`,
  }))),
};
