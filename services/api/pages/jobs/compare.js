// Several runs over each other, and their best figures side by side.
import { Chart } from "../components/chart.js";
import { Empty, Failure, PageHead, Segmented, Skeleton } from "../components/basics.js";
import { columns, lowestValue, smooth, valueNames } from "../lib/curves.js";
import { compact, duration, elapsed, figure, words } from "../lib/format.js";
import { getJson } from "../lib/api.js";
import { html, useEffect, useState } from "../lib/html.js";
import { link } from "../lib/router.js";
import { AXIS_OPTIONS, axisFormat } from "../job/axes.js";

const MAX_RUNS = 10;
const WEIGHT = 0.6;

export function ComparePage({ route }) {
  const ids = (route.query.get("jobs") ?? "").split(",").filter(Boolean).slice(0, MAX_RUNS);
  const { runs, error } = useRuns(ids.join(","));
  const [axis, setAxis] = useState("step");
  const [name, setName] = useState("loss");
  const names = [...new Set((runs ?? []).flatMap((run) => ["train", "validation"].flatMap((series) => valueNames(run.series[series] ?? []))))];
  return html`
    <${PageHead} title="Compare runs"><p><a href=${link(["jobs"])}>Jobs</a> · the lowest figure of each row is bold</p><//>
    <${Failure} error=${error} />
    ${ids.length === 0 && html`<${Empty} title="No runs chosen"><p>Tick two or more training jobs in the list.</p><//>`}
    ${ids.length > 0 && !runs && !error && html`<${Skeleton} />`}
    ${runs && html`
      <div class="row">
        <${Segmented} label="Horizontal axis" options=${AXIS_OPTIONS} value=${axis} onChange=${setAxis} />
        <select aria-label="Value" class="auto" value=${name} onChange=${(event) => setName(event.target.value)}>
          ${names.map((one) => html`<option key=${one} value=${one}>${words(one)}</option>`)}
        </select>
      </div>
      <section class="card"><div class="card-body">
        <${Chart} title=${words(name)} lines=${runs.map((run, index) => lineOf(run, index, name, axis))} formatX=${axisFormat(axis)} height=${360} />
      </div></section>
      <section class="card"><div class="card-body scroll" tabindex="0" role="region" aria-label="Figures side by side"><${Table} runs=${runs} names=${names} /></div></section>`}`;
}

function useRuns(ids) {
  const [state, setState] = useState({ runs: null, error: null });
  useEffect(() => {
    const load = (id) => Promise.all([getJson(`/v1/jobs/${encodeURIComponent(id)}`), getJson(`/v1/jobs/${encodeURIComponent(id)}/metrics`)]);
    Promise.all(ids.split(",").filter(Boolean).map(load)).then(
      (loaded) => setState({ runs: loaded.map(([job, { series }]) => ({ job, series })), error: null }),
      (error) => setState({ runs: null, error }),
    );
  }, [ids]);
  return state;
}

function lineOf({ job, series }, index, name, axis) {
  const of = valueNames(series.train ?? []).includes(name) ? "train" : "validation";
  const [x, y] = columns(series[of] ?? [], name, { axis });
  const smoothed = of === "train" && name !== "learning_rate";
  return { label: `${job.name} ${job.id.slice(-4)}`, color: `curve-${index + 1}`, x, y: smoothed ? smooth(y, WEIGHT) : y, bridge: true, dots: of === "validation" };
}

function Table({ runs, names }) {
  const best = names.map((name) => [name, runs.map(({ series }) => lowestValue([...(series.train ?? []), ...(series.validation ?? [])], name))]);
  const rows = best.filter(([name]) => name.includes("loss") || name === "bits_per_byte");
  const changed = [...new Set(runs.flatMap(({ job }) => Object.keys(job.spec)))].filter(
    (key) => new Set(runs.map(({ job }) => JSON.stringify(job.spec[key]))).size > 1,
  );
  return html`
    <table class="plain-table">
      <thead><tr><th>Run</th>${runs.map(({ job }) => html`<th key=${job.id}><a class="from-outside" href=${link(["jobs", job.id])}>${job.name} ${job.id.slice(-4)}</a></th>`)}</tr></thead>
      <tbody>
        ${rows.map(([name, values]) => html`
          <tr key=${name}><td>Lowest ${words(name)}</td>
            ${values.map((value, index) => html`<td key=${index} class="number">${value !== null && value === Math.min(...values.filter(Number.isFinite)) ? html`<strong>${figure(value)}</strong>` : figure(value)}</td>`)}</tr>`)}
        <tr><td>Steps</td>${runs.map(({ job }) => html`<td key=${job.id} class="number">${compact(job.progress.step)}</td>`)}</tr>
        <tr><td>Time</td>${runs.map(({ job }) => html`<td key=${job.id} class="number">${duration(elapsed(job))}</td>`)}</tr>
        ${changed.map((key) => html`
          <tr key=${key}><td>${words(key)}</td>${runs.map(({ job }) => html`<td key=${job.id} class="mono from-outside">${JSON.stringify(job.spec[key])}</td>`)}</tr>`)}
      </tbody>
    </table>`;
}
