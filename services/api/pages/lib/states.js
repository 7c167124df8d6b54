// The states of a job, as the platform names them.

export const ENDED = new Set(["succeeded", "failed", "cancelled"]);
export const AT_WORK = new Set(["running", "queued", "waiting", "paused"]);
export const TRAINS = new Set(["train", "finetune"]);

export const hasEnded = (job) => ENDED.has(job.state);

// Share done, 0 to 1; null where nothing is known yet.
export function share(job) {
  if (job.state === "succeeded") return 1;
  const { step, total_steps: total } = job.progress;
  return total > 0 ? Math.min(1, step / total) : null;
}

// What a job can be asked for now. A wish already made is not offered again.
export function actionsOf(job) {
  if (job.state === "failed" || job.state === "cancelled") return ["retry"];
  if (hasEnded(job)) return [];
  if (job.desired === "cancel") return [];
  const paused = job.state === "paused" || job.desired === "pause";
  return [paused ? "resume" : "pause", "cancel"];
}

// The state in words, with the wish that is under way.
export function stateText(job) {
  if (!hasEnded(job) && job.desired === "cancel") return "cancelling";
  if (job.state === "running" && job.desired === "pause") return "pausing";
  return job.state;
}
