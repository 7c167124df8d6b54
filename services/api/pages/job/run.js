// One job as it is and as it changes. Everything comes from the platform, so that a reload, or a
// second browser, shows the same; the stream only adds what happens from then on.
import { follow } from "../lib/live.js";
import { getJson, getText } from "../lib/api.js";
import { useCallback, useEffect, useRef, useState } from "../lib/html.js";
import { hasEnded } from "../lib/states.js";

const MAX_POINTS = 2000;
const MAX_LOG_LINES = 2000;
const FIRST_LOG_ENTRIES = 400;
const REFRESH_MILLISECONDS = 1000;
const FALLBACK_MILLISECONDS = 10_000;
const EMPTY = { train: [], validation: [] };

export function useRun(id, { superseded }) {
  const [job, setJob] = useState(null);
  const [error, setError] = useState(null);
  const [linked, setLinked] = useState(true);
  const [series, setSeries] = useState(EMPTY);
  const [log, setLog] = useState([]);
  const [events, setEvents] = useState([]);
  const [checkpoints, setCheckpoints] = useState([]);
  const base = `/v1/jobs/${encodeURIComponent(id)}`;
  const options = useRef({});
  options.current = { superseded };

  const loadJob = useCallback(async () => {
    const found = await getJson(base);
    setJob(found);
    return found;
  }, [base]);
  const loadCurves = useCallback(async () => {
    const query = new URLSearchParams({ max_points: MAX_POINTS, superseded: options.current.superseded });
    const { series: found } = await getJson(`${base}/metrics?${query}`);
    setSeries({ ...EMPTY, ...found });
  }, [base]);
  const loadCheckpoints = useCallback(async () => setCheckpoints((await getJson(`${base}/checkpoints`)).data), [base]);

  useEffect(() => {
    let stop = () => {};
    let gone = false;
    const start = async () => {
      try {
        const found = await loadJob();
        const [lines, past] = await Promise.all([lastLines(base, found.seq), pastEvents(base), loadCurves(), loadCheckpoints()]);
        if (gone) return;
        setLog(lines);
        setEvents(past);
        setError(null);
        stop = hasEnded(found) ? () => {} : watch(found.seq);
      } catch (problem) {
        if (!gone) setError(problem);
      }
    };
    const watch = (seq) => {
      let seen = seq;
      const refresh = throttled(() => loadJob().catch(() => {}), REFRESH_MILLISECONDS);
      const timer = setInterval(() => document.hidden || refresh(), FALLBACK_MILLISECONDS);
      const onMessage = (entry) => {
        seen = entry.seq;
        take(entry);
        refresh();
      };
      const end = follow(() => `${base}/events/stream?after=${seen}`, {
        onMessage, onLink: setLinked, onDone: () => { clearInterval(timer); loadJob().catch(() => {}); loadCheckpoints().catch(() => {}); },
      });
      return () => { clearInterval(timer); end(); };
    };
    const take = (entry) => {
      const { type, data } = entry;
      if (type === "metrics") setSeries((before) => grown(before, entry, loadCurves));
      else if (type === "log") setLog((before) => [...before, data.line].slice(-MAX_LOG_LINES));
      else setEvents((before) => [...before, entry]);
      if (type === "checkpoint") loadCheckpoints().catch(() => {});
      if (type === "state" && data.resume_step !== undefined) loadCurves().catch(() => {});
    };
    start();
    return () => { gone = true; stop(); };
  }, [base]);

  useEffect(() => { if (job) loadCurves().catch(() => {}); }, [superseded]);
  return { job, setJob, error, linked, series, log, events, checkpoints, loadCheckpoints };
}

// A new point at the end; when they become many, the platform thins them again.
function grown(before, { attempt, at, data }, thin) {
  const old = before[data.series] ?? [];
  if (old.length > 2 * MAX_POINTS) thin().catch(() => {});
  const point = { step: data.step, tokens: data.tokens, values: data.values, attempt, at };
  return { ...before, [data.series]: [...old, point] };
}

// Log lines share their numbers with all other entries: look back further until there are some.
async function lastLines(base, seq) {
  for (let back = FIRST_LOG_ENTRIES; ; back *= 5) {
    const after = Math.max(0, seq - back);
    const text = await getText(`${base}/logs?after=${after}&limit=10000`);
    const lines = text.split("\n").slice(0, -1);
    if (lines.length >= 20 || after === 0) return lines.slice(-MAX_LOG_LINES);
  }
}

async function pastEvents(base) {
  const types = ["state", "notice", "sample", "checkpoint", "output", "phase"];
  const pages = await Promise.all(types.map((type) => getJson(`${base}/events?type=${type}&limit=1000`)));
  return pages.flatMap((page) => page.data).sort((a, b) => a.seq - b.seq);
}

function throttled(action, milliseconds) {
  let timer = 0;
  return () => {
    timer ||= setTimeout(() => { timer = 0; action(); }, milliseconds);
  };
}
