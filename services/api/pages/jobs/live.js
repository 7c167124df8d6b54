// All jobs, as they change: a first batch, then those that are not as they were.
import { follow } from "../lib/live.js";
import { getJson } from "../lib/api.js";
import { useCallback, useEffect, useState } from "../lib/html.js";

const FIRST_PAGE = 100; // as many as the stream begins with

export function useJobs() {
  const [jobs, setJobs] = useState(null);
  const [linked, setLinked] = useState(true);
  const [older, setOlder] = useState({ more: false, busy: false, error: null });

  const merge = useCallback((changed) => {
    setJobs((before) => new Map([...(before ?? []), ...changed.map((job) => [job.id, job])]));
  }, []);
  useEffect(() => {
    let first = true;
    return follow(() => "/v1/events/stream", {
      onMessage: (changed) => {
        if (first) setOlder((state) => ({ ...state, more: changed.length >= FIRST_PAGE }));
        first = false;
        merge(changed);
      },
      onLink: setLinked,
    });
  }, []);

  const loadOlder = async () => {
    setOlder({ more: true, busy: true, error: null });
    try {
      const last = [...jobs.keys()].sort()[0];
      const page = await getJson(`/v1/jobs?${new URLSearchParams({ after: last, limit: "100" })}`);
      merge(page.data);
      setOlder({ more: page.has_more, busy: false, error: null });
    } catch (error) {
      setOlder({ more: true, busy: false, error });
    }
  };
  return { jobs: jobs && [...jobs.values()].sort((a, b) => (a.id < b.id ? 1 : -1)), linked, older, loadOlder };
}
