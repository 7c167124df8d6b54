// Curves: from the points of the metrics document to the columns of a chart. Pure functions.

// Exponential moving average without the pull towards zero at its beginning ("debiased"): after n
// points the sum of weights is 1 - weight^n. Gaps (null) stay gaps and do not count.
export function smooth(values, weight) {
  let sum = 0;
  let total = 0;
  return values.map((value) => {
    if (value === null || value === undefined || !Number.isFinite(value)) return null;
    sum = weight * sum + (1 - weight) * value;
    total = weight * total + (1 - weight);
    return sum / total;
  });
}

const AXES = {
  step: (point) => point.step,
  tokens: (point) => point.tokens,
  time: (point, first) => (new Date(point.at).getTime() - first) / 1000,
};

// The columns [x, y] of one value. A point that lacks it (it was not finite) is a gap. On a log
// axis what is not above zero cannot be shown. x never goes back: a chart needs it to rise.
export function columns(points, name, { axis = "step", log = false, start = null } = {}) {
  const first = start ?? (points.length ? new Date(points[0].at).getTime() : 0);
  const xs = [];
  const ys = [];
  for (const point of points) {
    const x = AXES[axis](point, first);
    if (xs.length && x < xs[xs.length - 1]) continue;
    const value = point.values[name];
    xs.push(x);
    ys.push(Number.isFinite(value) && (!log || value > 0) ? value : null);
  }
  return [xs, ys];
}

// Names of the values that a series carries, in the order in which they first appear.
export function valueNames(points) {
  const names = new Set();
  for (const point of points) Object.keys(point.values).forEach((name) => names.add(name));
  return [...names];
}

export function within(points, range) {
  if (!range) return points;
  return points.filter((point) => point.step >= range[0] && point.step <= range[1]);
}

// The steps between two places on an axis, for a detail to be asked of the platform.
export function stepsBetween(points, [from, to], axis, start) {
  const steps = points.filter((point) => {
    const x = AXES[axis](point, start);
    return x >= from && x <= to;
  }).map((point) => point.step);
  return steps.length > 1 ? [Math.min(...steps), Math.max(...steps)] : null;
}

export function lastValue(points, name) {
  for (let index = points.length - 1; index >= 0; index -= 1) {
    const value = points[index].values[name];
    if (Number.isFinite(value)) return value;
  }
  return null;
}

export function lowestValue(points, name) {
  const values = points.map((point) => point.values[name]).filter(Number.isFinite);
  return values.length ? values.reduce((low, value) => Math.min(low, value)) : null;
}

// A resumed attempt goes back to its checkpoint: what earlier attempts wrote from there on is
// replaced. `current` is the one curve that counts; `replaced` has the rest, by attempt.
export function separated(points) {
  const starts = new Map();
  for (const { attempt, step } of points) starts.set(attempt, Math.min(step, starts.get(attempt) ?? step));
  const isReplaced = ({ attempt, step }) => [...starts].some(([later, start]) => later > attempt && start <= step);
  const replaced = [...starts.keys()].sort((a, b) => a - b)
    .map((attempt) => points.filter((point) => point.attempt === attempt && isReplaced(point)))
    .filter((part) => part.length);
  return { current: replaced.length ? points.filter((point) => !isReplaced(point)) : points, replaced };
}
