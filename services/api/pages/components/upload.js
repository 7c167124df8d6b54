// A file on its way to the platform: chosen or dropped, with its progress and what went wrong.
import { html, useRef, useState } from "../lib/html.js";
import { upload } from "../lib/api.js";
import { bytes } from "../lib/format.js";
import { Failure } from "./basics.js";

export function UploadBox({ label = "Choose a file or drop it here", help, onUploaded }) {
  const [sending, setSending] = useState(null);
  const [error, setError] = useState(null);
  const [over, setOver] = useState(false);
  const input = useRef(null);

  const send = async (file) => {
    if (!file || sending) return;
    setError(null);
    setSending({ name: file.name, size: file.size, part: 0 });
    try {
      const done = await upload(file, (part) => setSending({ name: file.name, size: file.size, part }));
      onUploaded(done);
    } catch (problem) {
      setError(problem);
    } finally {
      setSending(null);
      if (input.current) input.current.value = "";
    }
  };
  const onDrop = (event) => {
    event.preventDefault();
    setOver(false);
    send(event.dataTransfer.files[0]);
  };

  return html`
    <div class="stack">
      <label class=${`drop ${over ? "drop-over" : ""}`} onDrop=${onDrop}
        onDragOver=${(event) => { event.preventDefault(); setOver(true); }} onDragLeave=${() => setOver(false)}>
        <input ref=${input} type="file" class="visually-hidden" disabled=${Boolean(sending)}
          onChange=${(event) => send(event.target.files[0])} />
        ${sending ? html`<${Sending} ...${sending} />` : html`
          <span class="drop-title">${label}</span>
          ${help && html`<span class="muted small">${help}</span>`}`}
      </label>
      <${Failure} error=${error} />
    </div>`;
}

function Sending({ name, size, part }) {
  const percent = Math.round(part * 100);
  return html`
    <span class="drop-title from-outside">${name}</span>
    <span class="muted small number">${part < 1 ? `${percent} % of ${bytes(size)}` : "Storing …"}</span>
    <span class="meter" role="progressbar" aria-label="Upload" aria-valuemin="0" aria-valuemax="100"
      aria-valuenow=${percent}><i style=${{ width: `${percent}%` }}></i></span>`;
}
