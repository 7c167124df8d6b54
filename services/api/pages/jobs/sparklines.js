// The loss of each training job as a few points, asked anew when the job has moved on.
import { getJson } from "../lib/api.js";
import { useEffect, useRef, useState } from "../lib/html.js";
import { hasEnded, TRAINS } from "../lib/states.js";

const POINTS = 60;
const PAUSE_MILLISECONDS = 3000;
const AT_ONCE = 3;

export function useSparklines(jobs) {
  const [curves, setCurves] = useState({});
  const known = useRef(new Map()); // job id -> what was known when its curve was asked for
  const wanted = useRef([]);
  wanted.current = jobs.filter((job) => TRAINS.has(job.kind) && job.started_at);

  useEffect(() => {
    let stopped = false;
    let timer = 0;
    const look = async () => {
      const stale = wanted.current.filter((job) => known.current.get(job.id) !== stamp(job));
      if (!document.hidden) {
        for (const job of stale.slice(0, AT_ONCE)) {
          const curve = await curveOf(job.id);
          if (stopped) return;
          known.current.set(job.id, stamp(job));
          if (curve) setCurves((before) => ({ ...before, [job.id]: curve }));
        }
      }
      timer = setTimeout(look, stale.length > AT_ONCE ? 50 : PAUSE_MILLISECONDS);
    };
    look();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, [wanted.current.length > 0]);
  return curves;
}

// A small curve that cannot be had is no reason to disturb the list, which shows outages itself.
const curveOf = (id) => getJson(`/v1/jobs/${id}/metrics?max_points=${POINTS}`).then(
  ({ series }) => (series.train ?? []).map((point) => point.values.loss),
  () => null,
);

const stamp = (job) => (hasEnded(job) ? job.state : `${job.attempt}:${job.progress.step}`);
