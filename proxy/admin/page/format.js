// Numbers and times in words.

export function duration(ms) {
  const seconds = Math.max(0, ms / 1000);
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 60) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.round(seconds % 60)} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

/** How long ago, in one unit. */
export function ago(ms) {
  const minutes = Math.floor(ms / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ago` : `${Math.floor(hours / 24)} days ago`;
}

export const moment = (ms) => (ms == null ? "" : new Date(ms).toLocaleString());
export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
export const short = (id) => id.slice(0, 8);

export function bytes(count) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, count)) / 3));
  return `${+(count / 1000 ** power).toFixed(1)} ${units[power]}`;
}

export const credits = (amount) => plural(+amount.toFixed(Math.abs(amount) < 1 ? 4 : 2), "credit");

/** An amount of such a source; an estimate has two digits. */
const creditsOf = (source, amount) =>
  source === "reported" || Math.abs(amount) >= 1 ? credits(amount) : plural(+amount.toPrecision(2), "credit");

const CERTAINTY = { reported: "", estimated: "about ", unknown: "at least " };

/** What a job has cost, and how certain that is; `""` before its end. */
export const cost = (whole) => (whole?.parts.length ? CERTAINTY[whole.source] + creditsOf(whole.source, whole.credits) : "");

/** What the jobs of a row of usage have cost, and how certain that is. */
export const usageCost = (row) => {
  const source = row.unknown_costs ? "unknown" : row.credits_estimated ? "estimated" : "reported";
  return CERTAINTY[source] + creditsOf(source, row.credits_reported + row.credits_estimated);
};

/** The parts of a cost, each with its source. */
export const costParts = (whole) => (whole?.parts ?? []).map((part) => {
  const what = part.class ? `${part.class}${part.nodes > 1 ? ` × ${part.nodes}` : ""}` : "GPU";
  return part.credits == null ? `${what}: unknown` : `${what}: ${creditsOf(part.source, part.credits)} (${part.source})`;
}).join(", ");

/** What a job is called. */
export const name = (job) => job.label || `Job ${short(job.id)}`;

/** Two members' jobs may have the same id: clients choose them. */
export const key = (job) => `${job.member}/${job.id}`;

export const accountTitle = (account) => (account.kind === "deployment" ? `${account.name} (deployment)` : account.name);
export const hash = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;

export const STATES = {
  completed: "Done", failed: "Failed", cancelled: "Cancelled",
  waiting: "Waiting", sending: "Sending", pending: "Starting", running: "Running",
};
