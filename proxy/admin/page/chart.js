// Jobs over time: one lane each for what ran, waited and failed, and for the use of slots.

import { attribute, card, el, keyed, svg, text } from "./dom.js";
import { clock, plural } from "./format.js";
import { get } from "./server.js";

const LABEL = 18, GAP = 14, AXIS = 20;
/** Intervals that a chart has at least, so that the bars of a new server are no walls; bars that it
 * has at most on a wide and on a narrow screen. */
const LEAST = 24, WIDE = 96, NARROW = 48;
const MINUTE = 60_000, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
/** Times between two labels of the axis, and the width that one needs. */
const LABELS = [5 * MINUTE, 10 * MINUTE, 30 * MINUTE, HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY], ROOM = 80;

/** What a range is called in a sentence. */
const RANGES = { "1h": "the last hour", "24h": "the last 24 hours", "7d": "the last 7 days" };
const LANES = [
  { name: "Running", field: "running", height: 56 },
  { name: "Waiting", field: "waiting", height: 34 },
  { name: "Failed", field: "failed", height: 22 },
  { name: "Slot use", field: "use", height: 34, most: 1, slots: true },
];

/** The chart as an element; `draw` takes the answer of `api/activity`. */
function chart() {
  const picture = el("div", { class: "picture" });
  const marker = svg("rect", { class: "marker", y: 0, rx: 3, visibility: "hidden" }), shapes = svg("g");
  const drawing = svg("svg", { "aria-hidden": "true" }, marker, shapes);
  const tip = el("div", { class: "tip", hidden: true });
  const said = el("p", { class: "unseen", role: "status" });
  const root = el("div", { class: "chart", tabindex: 0, role: "group",
    "aria-label": "Jobs over time" }, picture, tip, said);
  let bars = [], data = null, at = null;

  function draw() {
    const width = picture.clientWidth;
    if (!data || !width) return;
    bars = fold(data, width < 520 ? NARROW : WIDE);
    attribute(root, "aria-label", `Jobs of ${RANGES[data.range]}. Use the left and right arrow keys to read it.`);
    const painted = paint(bars, width, data);
    for (const [name, value] of Object.entries({ width, height: painted.height, viewBox: `0 0 ${width} ${painted.height}` })) {
      attribute(drawing, name, value);
    }
    attribute(marker, "height", painted.height - AXIS);
    keyed(shapes, painted.shapes, (shape) => shape.key, (shape) => svg(shape.tag), redraw);
    if (!drawing.isConnected) picture.append(drawing);
    point(at);
  }

  function point(index, speak = false) {
    at = index;
    tip.hidden = at == null || !bars[at];
    marker.setAttribute("visibility", tip.hidden ? "hidden" : "visible");
    if (tip.hidden) return;
    const step = picture.clientWidth / bars.length, x = (at + 0.5) * step;
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

/** Bars up to now, `most` at most: of what ran and waited the highest, of what ended the sum. Those
 * before the start of the server are empty. */
function fold(activity, most) {
  const span = Math.max(activity.to - activity.from, LEAST * activity.interval);
  const step = activity.interval * Math.ceil(span / activity.interval / most);
  const first = Math.floor((activity.to - span) / step) * step;
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
    for (const bar of bars) {
      const within = bar.at < at + activity.account_interval && bar.at + step > at && bar.at <= activity.to;
      if (within) bar.slots = Math.max(bar.slots ?? 0, count);
    }
  }
  for (const bar of bars) {
    const seconds = (Math.min(bar.at + step, activity.to) - bar.at) / 1000;
    // The end of a job is told a moment after the next one begins.
    if (bar.slots) bar.running = Math.min(bar.running, bar.slots);
    bar.use = bar.slots ? Math.min(1, bar.busy / (bar.slots * Math.max(60, seconds))) : null;
  }
  return bars;
}

/** What is to be drawn: an element of SVG each, which is kept while its key is. */
const shape = (key, tag, attributes, words = "") => ({ key, tag, attributes, words });

function redraw(element, { attributes, words }) {
  for (const [name, value] of Object.entries(attributes)) attribute(element, name, value);
  text(element, words);
}

/** The shapes of a chart of this width, and its height. */
function paint(bars, width, activity) {
  const lanes = LANES.filter((lane) => !lane.slots || bars.some((bar) => bar.use != null));
  const height = lanes.reduce((sum, lane) => sum + LABEL + lane.height + GAP, AXIS - GAP);
  const step = width / bars.length;
  const shapes = [];
  let top = 0;
  for (const lane of lanes) {
    const base = top + LABEL + lane.height;
    const peak = Math.max(...bars.map((bar) => bar[lane.field] ?? 0));
    const slots = lane.field === "running" ? Math.max(...bars.map((bar) => bar.slots ?? 0)) : 0;
    const most = lane.most ?? Math.max(1, peak, slots);
    shapes.push(
      shape(`lane/${lane.field}`, "text", { class: "lane", x: 0, y: top + 12 }, lane.name),
      shape(`peak/${lane.field}`, "text", { class: "peak", x: width, y: top + 12 }, peakWords(lane, bars, peak, activity)),
      shape(`base/${lane.field}`, "line", { class: "base", x1: 0, x2: width, y1: base + 0.5, y2: base + 0.5 }),
    );
    if (slots) {
      const y = base - (lane.height * slots) / most;
      shapes.push(shape("slots", "line", { class: "slots", x1: 0, x2: width, y1: y, y2: y }));
    }
    bars.forEach((bar, index) => {
      const value = bar[lane.field];
      if (!value) return;
      const tall = Math.max(2, (lane.height * value) / most);
      shapes.push(shape(`${lane.field}/${bar.at}`, "rect", { class: lane.field, x: index * step + 0.5, y: base - tall,
        width: Math.max(1, step - 1.5), height: tall, rx: Math.min(2, step / 4) }));
    });
    top = base + GAP;
  }
  return { height, shapes: [...shapes, ...labels(bars, width, height)] };
}

function peakWords(lane, bars, peak, activity) {
  if (lane.field === "failed") {
    const sum = bars.reduce((total, bar) => total + bar.failed, 0);
    return `${sum || "none"} ${activity.is_new ? "since the start" : `in ${RANGES[activity.range]}`}`;
  }
  if (lane.field === "use") {
    const known = bars.filter((bar) => bar.use != null);
    return `${Math.round((100 * known.reduce((sum, bar) => sum + bar.use, 0)) / known.length)} % on average`;
  }
  const slots = lane.field === "running" ? Math.max(...bars.map((bar) => bar.slots ?? 0)) : 0;
  return `peak ${peak}${slots ? ` of ${slots}` : ""}`;
}

/** The times below, as many as have room: hours, or the days of a week. */
function labels(bars, width, height) {
  const from = bars[0].at, span = bars.at(-1).at + bars[0].step - from;
  const every = LABELS.find((time) => (span / time) * ROOM <= width) ?? DAY;
  const made = [], midnight = new Date(from).setHours(0, 0, 0, 0);
  for (let at = midnight; at < from + span; at += every) {
    const x = (width * (at - from)) / span;
    if (x < 20 || x > width - 24) continue;
    const label = every < DAY ? clock(at) : new Date(at).toLocaleDateString([], { weekday: "short", day: "numeric" });
    made.push(shape(`hour/${at}`, "text", { class: "hour", x, y: height - 4 }, label));
  }
  return made;
}

function words(bar) {
  const lines = [
    `${bar.step < HOUR ? "" : `${new Date(bar.at).toLocaleDateString([], { weekday: "short" })} `}${clock(bar.at)}–${clock(bar.at + bar.step)}`,
    `peak ${bar.running} running, ${bar.waiting} waiting`,
    `${bar.completed} done, ${bar.failed} failed`,
  ];
  if (bar.use != null) lines.push(`${Math.round(100 * bar.use)} % of ${plural(bar.slots, "slot")} in use`);
  return lines;
}

/** Milliseconds between two readings. */
const AGAIN = 20_000;

/** The card with the chart, and what chooses its range; of one member, or of all. */
export function activity(member = null) {
  const box = card("Activity", { id: "day", empty: "No jobs" }), graph = chart();
  const chosen = el("div", { class: "segments", role: "group", "aria-label": "Range" },
    Object.keys(RANGES).map((range) => el("button", { type: "button", "data-range": range, click: () => choose(range) }, range.replace(/(\d+)/, "$1 "))));
  let range = localStorage.getItem("range") ?? "24h", asked = 0;
  if (!(range in RANGES)) range = "24h";
  box.heading.after(chosen);
  box.body.append(graph.root);
  const timer = setInterval(read, AGAIN);
  choose(range);

  function choose(wanted) {
    range = wanted;
    localStorage.setItem("range", range);
    for (const button of chosen.children) button.setAttribute("aria-pressed", String(button.dataset.range === range));
    read();
  }

  async function read() {
    const mine = ++asked;
    const answer = await get("api/activity", { range, member }).catch(() => null);
    if (!answer || mine !== asked) return;
    box.isEmpty(!answer.points.length, `No jobs ${answer.is_new ? "since the start" : `in ${RANGES[range]}`}`);
    graph.draw(answer);
  }

  return { root: box.root, leave: () => clearInterval(timer) };
}
