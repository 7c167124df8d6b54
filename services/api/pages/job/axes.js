// What may stand on the axes of a run's charts, and how it is written there.
import { bytes, capital, compact, duration, figure, words } from "../lib/format.js";

export const AXIS_OPTIONS = [
  { value: "step", label: "Steps" }, { value: "tokens", label: "Tokens" }, { value: "time", label: "Time" },
];

export const axisFormat = (axis) => (axis === "time" ? duration : compact);

const NAMES = { mfu: "Model FLOPs utilisation", flops: "FLOPs so far", grad_norm: "Gradient norm" };

export const titleOf = (name) => NAMES[name] ?? capital(words(name));

export function formatOf(name) {
  if (name.endsWith("_bytes")) return bytes;
  if (name === "mfu") return (share) => (share == null ? figure(share) : `${figure(share * 100)} %`);
  return figure;
}
