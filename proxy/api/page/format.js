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
export const clock = (ms) =>
  new Date(ms).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" });
export const plural = (count, one, many = `${one}s`) => `${count} ${count === 1 ? one : many}`;
export const short = (id) => id.slice(0, 8);

export function bytes(count) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, count)) / 3));
  return `${+(count / 1000 ** power).toFixed(1)} ${units[power]}`;
}

/** What a job has cost, `""` if that is not known. */
export function cost({ usd, credits }) {
  const parts = [];
  if (usd != null) parts.push(`$${usd.toFixed(usd < 1 ? 3 : 2)}`);
  if (credits != null) parts.push(plural(+credits.toFixed(1), "credit"));
  return parts.join(" + ");
}

/** What a job is called. */
export const name = (job) => job.label || `Job ${short(job.id)}`;

/** Two members' jobs may have the same id: clients choose them. */
export const key = (job) => `${job.member}/${job.id}`;

export const hash = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;

export const STATES = {
  completed: "Done", failed: "Failed", cancelled: "Cancelled",
  waiting: "Waiting", sending: "Sending", pending: "Starting", running: "Running",
};
