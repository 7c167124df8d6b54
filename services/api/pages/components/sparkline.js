// A curve as small as a word. The figures are beside it, so it is hidden from screen readers.
import { html } from "../lib/html.js";

const [WIDTH, HEIGHT] = [110, 30];

export function sparkPath(values) {
  const shown = values.filter(Number.isFinite);
  if (shown.length < 2) return "";
  const [low, high] = [Math.min(...shown), Math.max(...shown)];
  const span = high - low || 1;
  const place = (value, index) => [
    (index / (shown.length - 1)) * WIDTH, 2 + (1 - (value - low) / span) * (HEIGHT - 4),
  ];
  return shown.map((value, index) => {
    const [x, y] = place(value, index);
    return `${index ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`;
  }).join("");
}

export function Sparkline({ values }) {
  const path = sparkPath(values);
  if (!path) return null;
  return html`
    <svg class="spark" viewBox=${`0 0 ${WIDTH} ${HEIGHT}`} aria-hidden="true" preserveAspectRatio="none">
      <path d=${path} />
    </svg>`;
}
