// What is being filled in, and what the platform thinks of it: asked again after every change.
import { getJson, sendJson } from "../lib/api.js";
import { html, useCallback, useEffect, useRef, useState } from "../lib/html.js";

const PAUSE_MILLISECONDS = 400;

// A draft is {path, document}: the request that submitting it will be.
export function useVerdict(draft) {
  const [verdict, setVerdict] = useState({ state: "none" });
  const text = draft && JSON.stringify(draft);
  const asked = useRef(null);
  useEffect(() => {
    asked.current = text;
    if (!text) {
      setVerdict({ state: "none" });
      return undefined;
    }
    setVerdict((before) => ({ ...before, state: "asking" }));
    const timer = setTimeout(async () => {
      try {
        const estimate = await sendJson(`${draft.path}?validate_only=true`, draft.document);
        if (asked.current === text) setVerdict({ state: "valid", estimate });
      } catch (error) {
        if (asked.current === text) setVerdict({ state: "invalid", error });
      }
    }, PAUSE_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [text]);
  return [verdict, setVerdict];
}

export function useCatalogue() {
  const [state, setState] = useState({ schemas: null, recipes: null, error: null });
  const load = useCallback(() => {
    Promise.all([getJson("/v1/schemas"), getJson("/v1/recipes")]).then(
      ([schemas, recipes]) => setState({ schemas, recipes: recipes.data, error: null }),
      (error) => setState({ schemas: null, recipes: null, error }),
    );
  }, []);
  useEffect(load, []);
  return { ...state, reload: load };
}

// Errors that no field of the form shows: those of the document as a whole.
export function Leftover({ error, pointers }) {
  const left = error.errors.filter(({ pointer }) => !pointers.some((one) => pointer.startsWith(one)));
  if (error.errors.length && !left.length) return null;
  return html`
    <div class="note note-bad" role="alert">
      ${left.length ? left.map(({ pointer, detail }) => html`<p key=${pointer}><span class="mono">${pointer || "/"}</span> ${detail}</p>`)
      : html`<p><strong>${error.message}</strong></p>`}
      ${error.hint && html`<p>${error.hint}</p>`}
    </div>`;
}
