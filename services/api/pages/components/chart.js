// A line chart (uPlot) with its own legend: newest values, or those under the pointer.
// It knows columns of numbers and colours by name; what they mean is its user's business.
import uPlot from "../vendor/uplot.js";
import { figure } from "../lib/format.js";
import { html, useEffect, useRef, useState } from "../lib/html.js";

const HEIGHT = 240;
const FONT = '12px Inter, system-ui, "Segoe UI", sans-serif';

// `lines`: {label, color, x, y, width?, dots?, faint?, bridge?}. `onZoom([from, to])` gets a dragged
// interval of the x axis, `onReset` a double click.
export function Chart({ title, lines, log = false, formatX = figure, formatY = figure, onZoom, onReset, height = HEIGHT }) {
  const holder = useRef(null);
  const plot = useRef(null);
  const latest = useRef({});
  const [cursor, setCursor] = useState(null);
  const theme = useTheme();
  latest.current = { formatX, formatY, onZoom, onReset, setCursor };

  const data = joined(lines);
  const shape = JSON.stringify([log, theme, height, lines.map((line) => [line.label, line.color, line.dots, line.faint, line.width, line.bridge])]);

  useEffect(() => {
    const options = optionsOf(lines, { log, height, width: holder.current.clientWidth, latest });
    plot.current = new uPlot(options, data, holder.current);
    const watch = new ResizeObserver(([entry]) => {
      plot.current.setSize({ width: Math.floor(entry.contentRect.width), height });
    });
    watch.observe(holder.current);
    return () => {
      watch.disconnect();
      plot.current.destroy();
      plot.current = null;
    };
  }, [shape]);
  useEffect(() => plot.current?.setData(data), [lines]);

  return html`
    <figure class="chart" data-chart=${title} data-points=${data[0].length}>
      <figcaption class="chart-head">
        <h3>${title}</h3>
        <${Legend} lines=${lines} data=${data} cursor=${cursor} formatX=${formatX} formatY=${formatY} />
      </figcaption>
      <div ref=${holder} class="chart-plot" role="img" aria-label=${describe(title, lines, formatY)}></div>
    </figure>`;
}

function Legend({ lines, data, cursor, formatX, formatY }) {
  return html`
    <span class="legend number">
      ${cursor !== null && data[0][cursor] !== undefined && html`<span class="muted">${formatX(data[0][cursor])}</span>`}
      ${lines.map((line, index) => !line.faint && html`
        <span key=${line.label} class="legend-entry">
          <i class=${line.color}></i><span class="from-outside">${line.label}</span>
          <strong>${formatY(valueAt(data[index + 1], cursor))}</strong>
        </span>`)}
    </span>`;
}

// Under the pointer, or the newest; where lines have points at different places, the one before.
function valueAt(column, cursor) {
  let index = cursor ?? column.length - 1;
  while (index >= 0 && column[index] === undefined) index -= 1;
  if (cursor === null) while (index >= 0 && column[index] == null) index -= 1;
  return index >= 0 ? column[index] : null;
}

function describe(title, lines, formatY) {
  const said = lines.filter((line) => !line.faint && line.y.length).map((line) => {
    const values = line.y.filter(Number.isFinite);
    return values.length ? `${line.label} from ${formatY(values[0])} to ${formatY(values[values.length - 1])}` : "";
  });
  return `${title}: ${said.filter(Boolean).join(", ") || "no points yet"}`;
}

// One x column for all lines: undefined where a line has no point, null where it has a gap.
function joined(lines) {
  if (!lines.length) return [[]];
  return uPlot.join(lines.map((line) => [line.x, line.y]), lines.map(() => [0, 2]));
}

function optionsOf(lines, { log, height, width, latest }) {
  const axis = {
    stroke: color("--muted"), font: FONT, ticks: { show: false },
    grid: { stroke: color("--grid"), width: 1 },
  };
  return {
    width: Math.max(1, width), height, legend: { show: false }, padding: [8, 18, 0, 0],
    scales: { x: { time: false }, y: log ? { distr: 3 } : { range: padded } },
    cursor: {
      drag: { x: true, y: false, setScale: false }, points: { size: 7 }, y: false,
      bind: { dblclick: () => () => latest.current.onReset?.() },
    },
    axes: [
      { ...axis, values: (_, splits) => splits.map((x) => latest.current.formatX(x)), space: 70, size: 30 },
      { ...axis, values: (_, splits) => splits.map((y) => (y === null ? "" : latest.current.formatY(y))), size: 58 },
    ],
    series: [{}, ...lines.map(seriesOf)],
    hooks: {
      setCursor: [(chart) => latest.current.setCursor(chart.cursor.idx ?? null)],
      setSelect: [(chart) => {
        const { left, width: span } = chart.select;
        if (span < 8) return;
        chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
        latest.current.onZoom?.([chart.posToVal(left, "x"), chart.posToVal(left + span, "x")]);
      }],
    },
  };
}

function seriesOf(line) {
  const stroke = color(`--${line.color}`);
  return {
    stroke, width: line.width ?? (line.faint ? 1 : 2), alpha: line.faint ? 0.4 : 1,
    spanGaps: Boolean(line.bridge),
    points: line.dots ? { show: true, size: 6, fill: stroke } : { show: line.y.length === 1 },
  };
}

// A flat curve is a line in the middle, not the whole height of rounding errors.
function padded(_, low, high) {
  if (low === null) return [0, 1];
  const margin = (high - low) * 0.08 || Math.abs(high) * 0.05 || 0.5;
  return [low >= 0 ? Math.max(0, low - margin) : low - margin, high + margin];
}

// The canvas knows no CSS variables: the browser resolves them on an element.
function color(variable) {
  const probe = document.createElement("span");
  probe.style.color = `var(${variable})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function useTheme() {
  const [count, setCount] = useState(0);
  useEffect(() => {
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const onChange = () => setCount((before) => before + 1);
    dark.addEventListener("change", onChange);
    window.addEventListener("ryangpt:theme", onChange);
    return () => {
      dark.removeEventListener("change", onChange);
      window.removeEventListener("ryangpt:theme", onChange);
    };
  }, []);
  return count;
}
