// From the JSON Schema of a job to fields of a form, and from what is typed to values. The platform
// checks every value itself: here nothing is refused, and what is no number goes out as text.

const NUMBER = /^-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;

export function specSchema(schema) {
  const name = schema.properties.spec.$ref.split("/").pop();
  return schema.$defs[name];
}

// Where a field's name is an abbreviation.
const LABELS = {
  lr: "learning rate", min_lr: "lowest learning rate", d_model: "model width (d_model)", d_ff: "feed-forward width (d_ff)",
  num_layers: "layers", num_heads: "attention heads", vocab_size: "vocabulary size", max_steps: "steps", adam_eps: "Adam's epsilon",
  dtype: "number format (dtype)", min_chars: "fewest characters", max_document_chars: "most characters a document", max_documents: "most documents",
  max_grad_norm: "gradient norm limit", norm_eps: "norm epsilon", rope_theta: "RoPE theta", eval_interval: "steps between evaluations",
  log_interval: "steps between figures", save_interval: "steps between checkpoints", eval_tokens: "evaluation tokens", min_frequency: "fewest pair occurrences",
};

// {name, label, help, required, widget, options, types, hint} of every field of a spec, in order.
export function fieldsOf(schema) {
  const spec = specSchema(schema);
  return Object.entries(spec.properties).map(([name, field]) => fieldOf(name, field, spec.required ?? []));
}

function fieldOf(name, schema, required) {
  const branches = schema.anyOf ?? [schema];
  const types = new Set(branches.map((branch) => branch.type).filter(Boolean));
  const choices = branches.flatMap((branch) => branch.enum ?? (branch.const !== undefined ? [branch.const] : []));
  return {
    name, types, label: LABELS[name] ?? name.replaceAll("_", " "), help: (schema.description ?? "").replaceAll("\n", " ").replaceAll("`", ""),
    required: required.includes(name), fallback: schema.default, artifact: schema["x-artifact"],
    ...widgetOf(schema, types, choices), hint: limits(branches),
  };
}

function widgetOf(schema, types, choices) {
  if (schema["x-artifact"]) return { widget: "artifact" };
  if (types.has("array")) return { widget: schema.prefixItems ? "numbers" : "lines" };
  if (types.has("boolean") && types.size === 1) return { widget: "check" };
  if (types.has("boolean")) return { widget: "select", options: [...choices, true, false] };
  if (types.has("integer") || types.has("number")) return { widget: "text" };
  if (choices.length) return { widget: "select", options: choices };
  return { widget: "text" };
}

function limits(branches) {
  const { minimum: low, maximum: high } = branches.find((branch) => branch.minimum !== undefined || branch.maximum !== undefined) ?? {};
  if (low !== undefined && high !== undefined) return `${low} to ${high}`;
  return low === undefined ? "" : `at least ${low}`;
}

// What is typed as what is sent; undefined leaves the field out, so that its default holds.
export function parse(field, text) {
  if (field.widget === "lines") return text === "" ? [] : text.split("\n");
  const trimmed = text.trim();
  if (trimmed === "") return undefined;
  if (field.widget === "numbers") return trimmed.split(/[,\s]+/).map(numeric);
  if (field.types.has("integer") || field.types.has("number")) return numeric(trimmed);
  return trimmed;
}

// A whole number too large for a double stays text, for it would be sent as another one.
function numeric(text) {
  if (!NUMBER.test(text)) return text;
  const value = Number(text);
  return Number.isInteger(value) && !Number.isSafeInteger(value) ? text : value;
}

export function textOf(field, value) {
  if (value === undefined || value === null) return "";
  if (Array.isArray(value)) return value.join(field.widget === "lines" ? "\n" : ", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

export function placeholder({ fallback, required }) {
  if (required) return "";
  if (fallback === null || fallback === undefined) return "not set";
  return Array.isArray(fallback) ? fallback.join(", ") : String(fallback);
}

// The first thing wrong at a pointer or inside what it names.
export function errorAt(errors, pointer) {
  return errors.find((error) => error.pointer === pointer || error.pointer.startsWith(`${pointer}/`))?.detail ?? "";
}

export const escaped = (part) => part.replaceAll("~", "~0").replaceAll("/", "~1");
