// A document of the platform as a hook: loading, there, or the reason why not; asked again at will.
import { getJson } from "./api.js";
import { useCallback, useEffect, useRef, useState } from "./html.js";

// `path` null asks nothing. With `every` (milliseconds) the document is kept fresh while the page
// is seen. An error keeps what was there before, so that an outage does not empty the page.
export function useResource(path, { every = 0 } = {}) {
  const [state, setState] = useState({ data: null, error: null, path: null });
  const current = useRef(path);
  current.current = path;

  const reload = useCallback(async () => {
    if (path === null) return;
    try {
      const data = await getJson(path);
      if (current.current === path) setState({ data, error: null, path });
    } catch (error) {
      if (current.current !== path) return;
      setState((before) => ({ data: before.path === path ? before.data : null, error, path }));
    }
  }, [path]);

  useEffect(() => {
    reload();
    if (!every) return undefined;
    const timer = setInterval(() => document.hidden || reload(), every);
    return () => clearInterval(timer);
  }, [reload, every]);

  const fresh = state.path === path;
  return {
    data: fresh ? state.data : null,
    error: fresh ? state.error : null,
    loading: path !== null && !(fresh && (state.data || state.error)),
    reload,
  };
}

// Every page of a list, up to `limit` entries.
export async function allPages(path, limit = 500) {
  const found = [];
  let after = null;
  do {
    const query = new URLSearchParams({ limit: "100", ...(after ? { after } : {}) });
    const page = await getJson(`${path}${path.includes("?") ? "&" : "?"}${query}`);
    found.push(...page.data);
    after = page.has_more ? page.next_after : null;
  } while (after && found.length < limit);
  return found;
}
