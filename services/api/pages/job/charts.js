// The curves of a run: what was logged, smoothed over itself, with a detail on demand.
import { Chart } from "../components/chart.js";
import { Segmented } from "../components/basics.js";
import { columns, separated, smooth, stepsBetween, valueNames, within } from "../lib/curves.js";
import { integer } from "../lib/format.js";
import { getJson } from "../lib/api.js";
import { html, useEffect, useMemo, useState } from "../lib/html.js";
import { usePreference } from "../lib/preferences.js";
import { AXIS_OPTIONS, axisFormat, formatOf, titleOf } from "./axes.js";

const UNSMOOTHED = new Set(["learning_rate"]);
const FIRST = ["loss", "bits_per_byte", "learning_rate", "tokens_per_second"];
const DETAIL_POINTS = 2000;

export function Charts({ job, series, superseded, setSuperseded }) {
  const [axis, setAxis] = usePreference("axis", "step");
  const [log, setLog] = usePreference("log-axis", false);
  const [weight, setWeight] = usePreference("smoothing", 0.6);
  const [range, setRange] = useState(null);
  const [more, setMore] = useState(false);
  const shown = useDetail(job.id, series, range, superseded);
  const first = series.train[0] ?? series.validation[0];
  const start = first ? new Date(first.at).getTime() : 0;
  const charts = useMemo(() => chartsOf(shown, { axis, log, weight, start }), [shown, axis, log, weight, start]);
  const onZoom = (places) => {
    const steps = stepsBetween([...shown.train, ...shown.validation], places, axis, start);
    if (steps) setRange(steps);
  };
  const draw = ({ name, lines }) => html`
    <${Chart} key=${name} title=${titleOf(name)} lines=${lines} log=${log && name !== "learning_rate"} formatX=${axisFormat(axis)}
      formatY=${formatOf(name)} onZoom=${onZoom} onReset=${() => setRange(null)} />`;
  const [usual, others] = [charts.filter(({ name }) => FIRST.includes(name)), charts.filter(({ name }) => !FIRST.includes(name))];
  return html`
    <section class="card" aria-label="Curves">
      <div class="card-head">
        <h2>Curves</h2>
        <div class="row chart-tools">
          ${range && html`<button type="button" class="button button-small" onClick=${() => setRange(null)}>
            Steps ${integer(range[0])}–${integer(range[1])}: show all</button>`}
          <${Segmented} label="Horizontal axis" options=${AXIS_OPTIONS} value=${axis} onChange=${setAxis} />
          <label class="check small"><input type="checkbox" checked=${log} onChange=${(event) => setLog(event.target.checked)} />Log scale</label>
          <label class="check small smoothing">Smoothing
            <input type="range" min="0" max="0.98" step="0.02" value=${weight} aria-label="Smoothing"
              onInput=${(event) => setWeight(Number(event.target.value))} />
            <span class="number">${weight.toFixed(2)}</span></label>
          ${job.attempt > 1 && html`<label class="check small"><input type="checkbox" checked=${superseded}
            onChange=${(event) => setSuperseded(event.target.checked)} />Superseded points</label>`}
        </div>
      </div>
      <div class="card-body charts">
        ${charts.length === 0 && html`<p class="muted">The first figures come after a few steps.</p>`}
        ${usual.map(draw)}
      </div>
      ${others.length > 0 && html`
        <details class="card-body more" onToggle=${(event) => setMore(event.target.open)}>
          <summary>${others.length} more measurements</summary>
          <div class="charts">${more && others.map(draw)}</div>
        </details>`}
    </section>`;
}

// While a detail is shown, its points come from the platform, thinned for themselves: a long run
// holds more than what is shown of it as a whole.
function useDetail(id, series, range, superseded) {
  const [detail, setDetail] = useState(null);
  const key = range && `${range[0]}-${range[1]}-${superseded}`;
  useEffect(() => {
    setDetail(null);
    if (!range) return undefined;
    let gone = false;
    const query = new URLSearchParams({ max_points: DETAIL_POINTS, first_step: range[0], last_step: range[1], superseded });
    getJson(`/v1/jobs/${id}/metrics?${query}`).then(
      (found) => gone || setDetail({ train: [], validation: [], ...found.series }),
      () => {}, // the coarse points stay
    );
    return () => { gone = true; };
  }, [id, key]);
  return useMemo(() => {
    if (detail) return detail;
    return { train: within(series.train, range), validation: within(series.validation, range) };
  }, [series, range, detail]);
}

function chartsOf({ train, validation }, options) {
  const names = [...new Set([...FIRST, ...valueNames(train), ...valueNames(validation)])];
  const used = names.filter((name) => name !== "validation_loss" && name !== "validation_bytes");
  const charts = used.map((name) => ({ name, lines: linesOf(name, train, validation, options) }));
  return charts.filter(({ lines }) => lines.some((line) => line.y.some(Number.isFinite)));
}

function linesOf(name, train, validation, options) {
  const lines = trainLines(name, train, options);
  const also = name === "loss" ? "validation_loss" : name;
  const [x, y] = columns(validation, also, options);
  if (y.some(Number.isFinite)) {
    lines.push({ label: "validation", color: "curve-2", x, y, dots: true, bridge: true });
  }
  return lines;
}

function trainLines(name, all, { weight, ...options }) {
  const { current, replaced } = separated(all);
  const faint = replaced.map((points, index) => {
    const [x, y] = columns(points, name, options);
    return { label: `superseded ${index + 1}`, color: "curve-8", x, y, faint: true, width: 1.5 };
  });
  const [x, y] = columns(current, name, options);
  if (!y.some(Number.isFinite)) return faint;
  if (UNSMOOTHED.has(name) || weight === 0) return [...faint, { label: "training", color: "curve-1", x, y }];
  return [
    ...faint,
    { label: "training, raw", color: "curve-1", x, y, faint: true },
    { label: "training", color: "curve-1", x, y: smooth(y, weight) },
  ];
}
