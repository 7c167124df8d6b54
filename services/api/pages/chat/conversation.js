// The turns of a conversation, kept for this tab only, and the answer that is on its way.
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { recall, remember } from "../lib/preferences.js";
import { answer } from "./talk.js";

const KEY = "conversation";

export function useConversation(model, settings) {
  const [turns, setTurns] = useState(() => recall(KEY, [], sessionStorage));
  const [error, setError] = useState(null);
  const [busy, setBusy] = useState(false);
  const abort = useRef(null);
  useEffect(() => remember(KEY, turns, sessionStorage), [turns]);
  useEffect(() => () => abort.current?.abort(), []);

  const say = async (text) => {
    const asked = [...turns.filter((turn) => turn.content), { role: "user", content: text }];
    const reply = { role: "assistant", content: "", model: model.id, stage: model.stage };
    const show = (changes) => setTurns([...asked, Object.assign(reply, changes)]);
    show({});
    setError(null);
    setBusy(true);
    abort.current = new AbortController();
    try {
      const history = paired(asked, model);
      for await (const { text: piece, ...end } of answer(model, history, settings, abort.current.signal)) {
        if (piece) show({ content: reply.content + piece });
        else show(end);
      }
    } catch (problem) {
      if (problem.name === "AbortError") show({ finish: "stopped" });
      else setError(problem);
    } finally {
      setBusy(false);
    }
  };
  return { turns, error, busy, say, stop: () => abort.current?.abort(), clear: () => { setTurns([]); setError(null); } };
}

// A chat model wants turns by turns, the user first: an answer of another kind, or one that never
// came, is left out with its question.
export function paired(turns, model) {
  const last = turns.at(-1);
  const history = [];
  for (let index = 0; index + 1 < turns.length; index += 1) {
    const [question, reply] = [turns[index], turns[index + 1]];
    if (question.role === "user" && reply.role === "assistant" && reply.content && reply.stage === model.stage) history.push(question, reply);
  }
  return [...history, last];
}

export function Turns({ turns, busy }) {
  const end = useRef(null);
  const length = turns.at(-1)?.content.length ?? 0;
  useEffect(() => {
    const box = end.current?.parentElement;
    if (box) box.scrollTop = box.scrollHeight;
  }, [turns.length, length]);
  return html`
    ${turns.map((turn, index) => {
      const last = index === turns.length - 1;
      if (turn.role === "user") return html`<div key=${index} class="turn turn-user"><p class="from-outside text">${turn.content}</p></div>`;
      const continues = turn.stage === "pretrain" ? turns[index - 1]?.content : "";
      return html`
        <div key=${index} class="turn turn-model" data-turn="model" data-finish=${turn.finish ?? ""}>
          <p class="from-outside text">${continues && html`<span class="muted">${continues}</span>`}${turn.content}${busy && last && html`<span class="caret" aria-hidden="true"></span>`}</p>
          <p class="muted small number from-outside">${about(turn)}</p>
        </div>`;
    })}
    <span ref=${end}></span>`;
}

function about({ model, version, finish, tokens }) {
  const endings = { length: "cut at its limit", stopped: "stopped" };
  return [model && `${model}${version ? `:${version}` : ""}`, tokens && `${tokens} tokens`, endings[finish]].filter(Boolean).join(" · ");
}
