// The end of what the job's process wrote. It stays at its end unless its reader has scrolled up.
import { html, useLayoutEffect, useRef, useState } from "../lib/html.js";
import { integer } from "../lib/format.js";

const NEAR = 40; // pixels from the end that still count as the end

export function LogTail({ job, lines }) {
  const [wanted, setWanted] = useState("");
  const box = useRef(null);
  const atEnd = useRef(true);
  const needle = wanted.trim().toLowerCase();
  const shown = needle ? lines.filter((line) => line.toLowerCase().includes(needle)) : lines;
  useLayoutEffect(() => {
    if (atEnd.current && box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [shown.length, needle]);
  const onScroll = () => {
    const { scrollHeight, scrollTop, clientHeight } = box.current;
    atEnd.current = scrollHeight - scrollTop - clientHeight < NEAR;
  };
  return html`
    <section class="card" aria-label="Log">
      <div class="card-head"><h2>Log</h2>
        <div class="row">
          ${needle && html`<span class="muted small number">${integer(shown.length)} of ${integer(lines.length)} lines</span>`}
          <input type="search" class="short" placeholder="Find" aria-label="Find in the log" value=${wanted} onInput=${(event) => setWanted(event.target.value)} />
          <a class="button button-small" href=${`/v1/jobs/${job.id}/logs?limit=10000`} download=${`${job.id}.log`}>Download</a>
        </div>
      </div>
      <pre ref=${box} class="log" tabindex="0" onScroll=${onScroll} aria-label="Log lines">${shown.length ? shown.join("\n") : "Nothing yet."}</pre>
    </section>`;
}
