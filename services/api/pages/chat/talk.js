// A conversation with a served model over the platform's own address, token by token.
// A base model completes a text, a finetuned one answers; both are streamed.
import { errorOf } from "../lib/api.js";
import { events } from "../lib/sse.js";

export const isBase = (model) => model.stage === "pretrain";

// Yields {text} and, last, {finish, tokens}. Raises ApiError; an abort raises AbortError.
export async function* answer(model, turns, settings, signal) {
  const base = isBase(model);
  const path = base ? "/inference/v1/completions" : "/inference/v1/chat/completions";
  const body = {
    model: model.id, stream: true, stream_options: { include_usage: true },
    temperature: settings.temperature, min_tokens: settings.minTokens, max_tokens: settings.maxTokens,
    ...(base ? { prompt: turns.at(-1).content } : { messages: turns.map(({ role, content }) => ({ role, content })) }),
  };
  const response = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal,
  });
  if (!response.ok) throw await errorOf(response);
  const version = response.headers.get("x-model-version");
  let finish = null;
  let tokens = null;
  for await (const data of events(response)) {
    if (data === "[DONE]") break;
    const chunk = JSON.parse(data);
    if (chunk.error) throw await errorOf(new Response(data, { status: chunk.error.code === "unavailable" ? 503 : 500 }));
    const choice = chunk.choices?.[0];
    const text = choice?.text ?? choice?.delta?.content;
    if (text) yield { text };
    finish = choice?.finish_reason ?? finish;
    tokens = chunk.usage?.completion_tokens ?? tokens;
  }
  yield { finish, tokens, version };
}
