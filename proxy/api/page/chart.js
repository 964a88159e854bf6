// A day of jobs: one lane each for what ran, waited and failed, and for the use of slots.

import { el, svg, text } from "./dom.js";
import { clock, plural } from "./format.js";

const LABEL = 18, GAP = 14, AXIS = 20;
const LANES = [
  { name: "Running", field: "running", height: 56 },
  { name: "Waiting", field: "waiting", height: 34 },
  { name: "Failed", field: "failed", height: 22 },
  { name: "Slot use", field: "use", height: 34, most: 1, slots: true },
];

/** The chart as an element; `draw` takes the answer of `api/activity`. */
export function chart() {
  const picture = el("div", { class: "picture" });
  const tip = el("div", { class: "tip", hidden: true });
  const said = el("p", { class: "unseen", role: "status" });
  const root = el("div", { class: "chart", tabindex: 0, role: "group",
    "aria-label": "Jobs of the last 24 hours. Use the left and right arrow keys to read it." }, picture, tip, said);
  let bars = [], data = null, at = null;

  function draw() {
    const width = picture.clientWidth;
    if (!data || !width) return;
    bars = fold(data, width < 520 ? 6 : 3);
    picture.replaceChildren(paint(bars, width));
    point(at);
  }

  function point(index, speak = false) {
    at = index;
    const marker = picture.querySelector(".marker");
    tip.hidden = at == null || !bars[at];
    if (!marker || tip.hidden) {
      marker?.setAttribute("visibility", "hidden");
      return;
    }
    const step = picture.clientWidth / bars.length, x = (at + 0.5) * step;
    marker.setAttribute("visibility", "visible");
    marker.setAttribute("x", at * step);
    marker.setAttribute("width", step);
    const lines = words(bars[at]);
    tip.replaceChildren(...lines.map((line, row) => el(row ? "span" : "strong", {}, line)));
    tip.style.left = `${Math.min(Math.max(x, 80), Math.max(80, picture.clientWidth - 80))}px`;
    if (speak) text(said, lines.join(", "));
  }

  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    point(Math.min(bars.length - 1, Math.max(0, Math.floor(share * bars.length))));
  });
  picture.addEventListener("pointerleave", () => point(null));
  root.addEventListener("blur", () => point(null));
  root.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || !bars.length) return;
    event.preventDefault();
    point(Math.min(bars.length - 1, Math.max(0, (at ?? bars.length) + step)), true);
  });
  new ResizeObserver(draw).observe(picture);
  return {
    root,
    draw(activity) {
      data = activity;
      draw();
    },
  };
}

/** Bars of `count` intervals each: the most that ran and waited, the sum of what ended. */
function fold(activity, count) {
  const step = count * activity.interval;
  const first = Math.ceil(activity.from / step) * step;
  const bars = [];
  for (let at = first; at <= activity.to; at += step) {
    bars.push({ at, step, running: 0, waiting: 0, completed: 0, failed: 0, busy: 0, slots: null });
  }
  const barOf = (at) => bars[Math.floor((at - first) / step)];
  for (const point of activity.points) {
    const bar = barOf(point.at);
    if (!bar) continue;
    for (const most of ["running", "waiting"]) bar[most] = Math.max(bar[most], point[most]);
    for (const sum of ["completed", "failed", "busy"]) bar[sum] += point[sum];
  }
  const slots = new Map();
  for (const account of activity.accounts) {
    for (const point of account.points) slots.set(point.at, (slots.get(point.at) ?? 0) + point.slots);
  }
  for (const [at, count] of slots) {
    const bar = barOf(at);
    if (bar) bar.slots = Math.max(bar.slots ?? 0, count);
  }
  for (const bar of bars) {
    const seconds = (Math.min(bar.at + step, activity.to) - bar.at) / 1000;
    // The end of a job is told a moment after the next one begins.
    if (bar.slots) bar.running = Math.min(bar.running, bar.slots);
    bar.use = bar.slots ? Math.min(1, bar.busy / (bar.slots * Math.max(60, seconds))) : null;
  }
  return bars;
}

function paint(bars, width) {
  const lanes = LANES.filter((lane) => !lane.slots || bars.some((bar) => bar.use != null));
  const height = lanes.reduce((sum, lane) => sum + LABEL + lane.height + GAP, AXIS - GAP);
  const step = width / bars.length;
  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true" });
  root.append(svg("rect", { class: "marker", y: 0, height: height - AXIS, rx: 3, visibility: "hidden" }));
  let top = 0;
  for (const lane of lanes) {
    const base = top + LABEL + lane.height;
    const peak = Math.max(...bars.map((bar) => bar[lane.field] ?? 0));
    const slots = lane.field === "running" ? Math.max(...bars.map((bar) => bar.slots ?? 0)) : 0;
    const most = lane.most ?? Math.max(1, peak, slots);
    root.append(
      svg("text", { class: "lane", x: 0, y: top + 12 }, lane.name),
      svg("text", { class: "peak", x: width, y: top + 12 }, peakWords(lane, bars, peak)),
      svg("line", { class: "base", x1: 0, x2: width, y1: base + 0.5, y2: base + 0.5 }),
    );
    if (slots) {
      const y = base - (lane.height * slots) / most;
      root.append(svg("line", { class: "slots", x1: 0, x2: width, y1: y, y2: y }));
    }
    bars.forEach((bar, index) => {
      const value = bar[lane.field];
      if (!value) return;
      const tall = Math.max(2, (lane.height * value) / most);
      root.append(svg("rect", { class: lane.field, x: index * step + 0.5, y: base - tall,
        width: Math.max(1, step - 1.5), height: tall, rx: Math.min(2, step / 4) }));
    });
    top = base + GAP;
  }
  root.append(...hours(bars, step, width, height));
  return root;
}

function peakWords(lane, bars, peak) {
  if (lane.field === "failed") {
    const sum = bars.reduce((total, bar) => total + bar.failed, 0);
    return sum ? `${sum} in 24 hours` : "none in 24 hours";
  }
  if (lane.field === "use") {
    const known = bars.filter((bar) => bar.use != null);
    return `${Math.round((100 * known.reduce((sum, bar) => sum + bar.use, 0)) / known.length)} % on average`;
  }
  const slots = lane.field === "running" ? Math.max(...bars.map((bar) => bar.slots ?? 0)) : 0;
  return `${peak} at most${slots ? ` of ${plural(slots, "slot")}` : ""}`;
}

/** The hours below, so many as have room. */
function hours(bars, step, width, height) {
  const every = width < 520 ? 6 : 3;
  return bars.flatMap((bar, index) => {
    const date = new Date(bar.at), x = index * step;
    if (date.getMinutes() || date.getHours() % every || x < 16 || x > width - 20) return [];
    return [svg("text", { class: "hour", x, y: height - 4 }, clock(bar.at))];
  });
}

function words(bar) {
  const lines = [
    `${clock(bar.at)}–${clock(bar.at + bar.step)}`,
    `${bar.running} running, ${bar.waiting} waiting at most`,
    `${bar.completed} done, ${bar.failed} failed`,
  ];
  if (bar.use != null) lines.push(`${Math.round(100 * bar.use)} % of ${plural(bar.slots, "slot")} in use`);
  return lines;
}
