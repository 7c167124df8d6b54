// Chat: which model and version, how it shall draw its words, and the conversation.
import { Empty, Failure, PageHead, Skeleton } from "../components/basics.js";
import { figure } from "../lib/format.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";
import { link } from "../lib/router.js";
import { usePreference } from "../lib/preferences.js";
import { useResource } from "../lib/resource.js";
import { Turns, useConversation } from "./conversation.js";
import { VersionChoice } from "./version.js";
import { isBase } from "./talk.js";

const EXAMPLES = ["The capital of France is", "Albert Einstein was born in", "Hello", "How are you?", "What is your name?"];

export function ChatPage({ route }) {
  const served = useResource("/inference/v1/models", { every: 4000 });
  const [name, setName] = useState(route.query.get("model"));
  const models = served.data?.data ?? [];
  const model = models.find((one) => one.id === name) ?? models.find((one) => !isBase(one)) ?? models[0];
  return html`
    <${PageHead} title="Chat"><p>Small models say what sounds likely, not what is true.</p><//>
    ${served.error && html`<${Failure} error=${served.error} retry=${served.reload} />`}
    ${served.loading && html`<section class="card"><${Skeleton} /></section>`}
    ${served.data && !model && html`<section class="card"><${Empty} title="No model is served yet">
      <p>A training job publishes its checkpoints; the newest one appears here by itself.</p>
      <a class="button button-primary" href=${link(["new"])}>Train a model</a><//></section>`}
    ${model && html`<${Room} model=${model} models=${models} choose=${setName} />`}`;
}

function Room({ model, models, choose }) {
  const base = isBase(model);
  const [temperature, setTemperature] = usePreference("temperature", 0.7);
  const [minTokens, setMinTokens] = useState({});
  const [maxTokens, setMaxTokens] = usePreference("max-tokens", 120);
  const least = minTokens[model.stage] ?? (base ? 10 : 5);
  const settings = { temperature, minTokens: least, maxTokens: Math.max(maxTokens, least) };
  const conversation = useConversation(model, settings);
  const { turns, busy, error } = conversation;
  return html`
    <div class="split chat">
      <section class="card room" aria-label="Conversation">
        <div class="turns" tabindex="0" role="log" aria-label="Turns" aria-busy=${String(busy)}>
          ${turns.length === 0 && html`<${Beginning} model=${model} base=${base} />`}
          <${Turns} turns=${turns} busy=${busy} />
        </div>
        <${Failure} error=${error} />
        <div class="examples" role="group" aria-label="Examples">${EXAMPLES.map((example) => html`
          <button key=${example} type="button" class="button button-small" disabled=${busy} onClick=${() => conversation.say(example)}>${example}</button>`)}</div>
        <${Composer} base=${base} conversation=${conversation} />
      </section>
      <aside class="card sticky" aria-label="Settings"><div class="card-body stack">
        <div class="field"><label for="model">Model</label>
          <select id="model" value=${model.id} disabled=${busy} onChange=${(event) => choose(event.target.value)}>
            ${models.map((one) => html`<option key=${one.id} value=${one.id}>${one.id} (${isBase(one) ? "completes" : "answers"})</option>`)}
          </select></div>
        <${VersionChoice} key=${model.id} model=${model} busy=${busy} />
        <div class="field"><label for="temperature"><span>Temperature</span><span class="number">${temperature.toFixed(2)}</span></label>
          <input id="temperature" type="range" min="0.01" max="0.99" step="0.01" value=${temperature} onInput=${(event) => setTemperature(Number(event.target.value))} />
          <span class="help">Low: the likeliest words. High: more surprise.</span></div>
        <${Count} id="min-tokens" label="Tokens at least" value=${least} low=${0} onChange=${(value) => setMinTokens({ ...minTokens, [model.stage]: value })} />
        <${Count} id="max-tokens" label="Tokens at most" value=${maxTokens} low=${1} onChange=${setMaxTokens} />
        <p class="muted small number">Context ${figure(model.max_model_len)} tokens</p>
        <button type="button" class="button" disabled=${busy || turns.length === 0} onClick=${conversation.clear}>New conversation</button>
      </div></aside>
    </div>`;
}

const Beginning = ({ model, base }) => html`
  <div class="empty"><h2 class="from-outside">${model.id}</h2>
    <p>${base ? "A base model: it continues the text that you begin." : "A chat model: ask it something, or greet it."}</p></div>`;

function Count({ id, label, value, low, onChange }) {
  const take = (event) => { if (event.target.validity.valid && event.target.value !== "") onChange(Number(event.target.value)); };
  return html`<div class="field"><label for=${id}>${label}</label><input id=${id} type="number" min=${low} max="100000" step="1" value=${value} onInput=${take} /></div>`;
}

function Composer({ base, conversation: { busy, say, stop } }) {
  const [text, setText] = useState("");
  const box = useRef(null);
  useEffect(() => { if (!busy) box.current?.focus({ preventScroll: true }); }, [busy]);
  const send = (event) => {
    event.preventDefault();
    if (busy || !text.trim()) return;
    say(text.trim());
    setText("");
  };
  const onKeyDown = (event) => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event); };
  return html`
    <form class="composer" onSubmit=${send}>
      <textarea ref=${box} rows="1" aria-label=${base ? "Text to continue" : "Message"} placeholder=${base ? "Begin a text …" : "Write a message …"}
        value=${text} onInput=${(event) => setText(event.target.value)} onKeyDown=${onKeyDown}></textarea>
      ${busy ? html`<button type="button" class="button" onClick=${stop}>Stop</button>`
        : html`<button class="button button-primary" disabled=${!text.trim()}>Send</button>`}
    </form>`;
}
