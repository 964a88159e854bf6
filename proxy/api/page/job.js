// One job: its outputs, its error, and its nodes with the times when they ran.

import { act, get } from "./server.js";
import { ask, bar, card, el, keyed, text } from "./dom.js";
import { STATES, cost, duration, moment, name } from "./format.js";
import { thumbnail } from "./jobs.js";

export function view(context, [member, id]) {
  const title = el("h1", {}, "Job");
  const chip = el("span", { class: "chip" });
  const cancel = el("button", { type: "button", hidden: true, click: stop }, "Cancel job");
  const facts = el("dl", { class: "facts" });
  const error = card("Error", { id: "error" });
  const outputs = card("Outputs", { id: "outputs", empty: "No outputs" });
  const nodes = card("Nodes", { id: "nodes", empty: "The graph has no nodes" });
  const missing = el("p", { class: "empty", hidden: true }, "This job is not in the history.");
  const pictures = el("ul", { class: "outputs" });
  const rows = el("tbody"), progress = bar("Progress");
  outputs.body.append(pictures);
  nodes.body.append(el("table", { class: "nodes" },
    el("thead", {}, el("tr", {}, ["Node", "Time", "When it ran"].map((head) => el("th", { scope: "col" }, head)))), rows));
  error.root.hidden = true;
  const parts = el("div", { class: "stack" }, error.root, outputs.root, nodes.root);
  let job = null, asked = 0, seen = null;

  async function load() {
    const mine = ++asked;
    try {
      const answer = await get("api/job", { member, id });
      if (mine === asked) job = answer;
    } catch (failed) {
      if (mine !== asked) return;
      missing.hidden = job != null;
      parts.hidden = job == null;
      if (job == null) text(missing, failed.message);
      return;
    }
    missing.hidden = true;
    parts.hidden = false;
    draw();
  }

  async function stop() {
    if (await ask(`Cancel ${name(job)}?`, "Cancel job")) {
      await act("POST", "api/jobs/cancel", { member, id });
    }
  }

  function draw() {
    if (!job) return;
    const live = job.ended == null;
    text(title, name(job));
    chip.className = `chip ${job.state}`;
    text(chip, STATES[job.state]);
    cancel.hidden = !live;
    const current = live && context.state.running.find((one) => one.id === id && one.member === member);
    progress.root.hidden = !current;
    if (current) progress.set(current.progress);
    const began = job.started ?? context.now;
    const told = [
      ["Member", context.state.viewer.gateway ? job.member : ""], ["Submitted", moment(job.created)],
      ["Waited", duration(Math.min(began, job.ended ?? began) - job.created)],
      ["Ran", job.started ? duration((job.ended ?? context.now) - job.started) : ""],
      ["Account", job.account], ["Cost", cost(job.cost)], ["Why it waits", job.reason ?? ""], ["Id", job.id],
    ].filter(([, value]) => value);
    keyed(facts, told, ([label]) => label, ([label]) => el("div", {}, el("dt", {}, label), el("dd")),
      (entry, [, value]) => text(entry.lastChild, value));
    error.root.hidden = !job.error;
    if (job.error) {
      const where = [job.error.class, job.error.node && `node ${job.error.node}`].filter(Boolean).join(", ");
      error.body.replaceChildren(el("p", {}, el("strong", {}, job.error.type || "Error"), where && ` in ${where}`),
        el("pre", { tabindex: 0, "aria-label": "Message" }, job.error.message || "No message"));
    }
    outputs.isEmpty(!job.outputs.length);
    outputs.root.hidden = live;
    keyed(pictures, job.outputs, (one) => String(one.number), output);
    nodes.isEmpty(!job.nodes.length);
    keyed(rows, job.nodes, (node) => node.id, row, time);
  }

  function output(one) {
    const query = { member, id, output: one.number, at: job.ended };
    const inside = [
      el("span", { class: "picture" }, one.thumbnail ? thumbnail(query) : el("span", { class: "none" }, one.media)),
      el("span", { class: "name", title: one.filename }, one.filename),
    ];
    const own = member === context.state.viewer.name && context.state.server.interface;
    const place = new URLSearchParams({ filename: one.filename, subfolder: one.subfolder, type: one.type });
    return el("li", {}, own ? el("a", { href: `../view?${place}`, target: "_blank", rel: "noopener" }, inside) : inside);
  }

  function row(node) {
    return el("tr", {},
      el("th", { scope: "row" }, node.title, " ", el("small", {}, node.title === node.class ? `#${node.id}` : `${node.class} #${node.id}`)),
      el("td", { class: "time" }),
      el("td", { class: "when" }, el("span", { class: "span", "aria-hidden": "true" }, el("span"))));
  }

  /** When a node ran, in words and as a bar within the job. */
  function time(tr, node) {
    const live = job.ended == null;
    const whole = Math.max(1, (job.ended ?? context.now) - (job.started ?? context.now));
    const word = node.cached ? "cached" : node.began != null ? duration(node.ran)
      : live ? (node.marked ? "running" : "") : job.state === "completed" ? "not timed" : "did not run";
    text(tr.querySelector(".time"), word);
    tr.classList.toggle("marked", node.marked);
    tr.classList.toggle("failed", node.marked && !live);
    const span = tr.querySelector(".span > span");
    span.hidden = node.began == null;
    if (node.began != null) {
      span.style.left = `${Math.min(99, Math.max(0, (100 * (node.began - job.started)) / whole))}%`;
      span.style.width = `${Math.min(100, Math.max(0.5, (100 * node.ran) / whole))}%`;
    }
  }

  return {
    title: "Job",
    root: el("div", { class: "page" },
      el("p", { class: "back" }, el("a", { href: "#/jobs" }, "Jobs")),
      el("div", { class: "headline" }, title, chip, cancel), facts, progress.root, missing, parts),
    update() {
      const live = context.state.running.find((one) => one.id === id && one.member === member);
      const word = `${context.state.history}/${live?.node}/${live?.state}`;
      if ((job == null || job.ended == null) && word !== seen) {
        seen = word;
        load();
      } else draw();
    },
  };
}
