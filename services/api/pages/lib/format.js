// Figures, sizes, durations and moments as people read them.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const moment = new Intl.DateTimeFormat("en", {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hourCycle: "h23",
});
const NONE = "–";

export const integer = (value) => (value == null ? NONE : whole.format(value));

export const compact = (value) => (value == null ? NONE : Math.abs(value) < 10_000 ? whole.format(value) : short.format(value));

// Four significant digits; very small and very large ones as powers of ten.
export function figure(value) {
  if (value == null || !Number.isFinite(value)) return NONE;
  const size = Math.abs(value);
  if (size >= 10_000) return compact(value);
  if (size !== 0 && size < 1e-3) return value.toExponential(2).replace("e-", "e−");
  return String(Number(value.toPrecision(4)));
}

export function bytes(value) {
  if (value == null) return NONE;
  let unit = 0;
  let size = value;
  while (size >= 1000 && unit < 4) {
    size /= 1000;
    unit += 1;
  }
  const text = unit === 0 || size >= 100 ? Math.round(size) : size.toFixed(1);
  return `${text} ${["B", "kB", "MB", "GB", "TB"][unit]}`;
}

export function duration(seconds) {
  if (seconds == null || !Number.isFinite(seconds)) return NONE;
  const rest = Math.max(0, Math.round(seconds));
  const [days, hours, minutes] = [Math.floor(rest / 86_400), Math.floor(rest / 3600) % 24, Math.floor(rest / 60) % 60];
  if (days) return `${days} d ${hours} h`;
  if (hours) return `${hours} h ${minutes} min`;
  if (minutes) return `${minutes} min ${rest % 60} s`;
  return `${rest} s`;
}

// An estimate is no stop-watch: the larger the fewer digits.
export function remaining(seconds) {
  if (seconds == null) return NONE;
  if (seconds < 60) return "under a minute";
  if (seconds < 3600) return `about ${Math.round(seconds / 60)} min`;
  if (seconds < 86_400) return `about ${Number((seconds / 3600).toFixed(1))} h`;
  return `about ${Number((seconds / 86_400).toFixed(1))} days`;
}

export const date = (text) => (text ? moment.format(new Date(text)) : NONE);

export function ago(text, now = Date.now()) {
  if (!text) return NONE;
  const seconds = (now - new Date(text).getTime()) / 1000;
  if (seconds < 5) return "just now";
  if (seconds < 60) return `${Math.round(seconds)} s ago`;
  if (seconds < 3600) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.round(seconds / 3600)} h ago`;
  return date(text);
}

export const words = (name) => name.replaceAll("_", " ");

export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// Seconds that a job has been, or was, at work.
export function elapsed(job, now = Date.now()) {
  if (!job.started_at) return null;
  const end = job.finished_at ? new Date(job.finished_at).getTime() : now;
  return (end - new Date(job.started_at).getTime()) / 1000;
}
