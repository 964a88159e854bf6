// One job: while it runs its progress, then its outputs, its error, what was sent, and its nodes.

import { act, get } from "./server.js";
import { ask, card, el, keyed, text } from "./dom.js";
import { STATES, cost, costParts, duration, hash, moment, name } from "./format.js";
import { thumbnail } from "./jobs.js";
import { running } from "./run.js";

const WORDS = { finished: "done", cached: "cached", running: "running", error: "failed", pending: "not begun" };

export function view(context, [member, id]) {
  const title = el("h1", {}, "Job");
  const chip = el("span", { class: "chip" });
  const cancel = el("button", { type: "button", hidden: true, click: stop }, "Cancel job");
  const again = el("button", { type: "button", hidden: true, click: repeat }, "Run again");
  const facts = el("dl", { class: "facts" });
  const error = card("Error", { id: "error" });
  const outputs = card("Outputs", { id: "outputs", empty: "No outputs" });
  const sent = card("Workflow", { id: "sent" });
  const nodes = card("Nodes", { id: "nodes", empty: "The graph has no nodes" });
  const missing = el("p", { class: "empty", hidden: true }, "This job is not in the history.");
  const pictures = el("ul", { class: "outputs" }), texts = el("ul", { class: "texts" });
  const prompts = el("ul", { class: "texts" }), links = el("p", { class: "acts" });
  const rows = el("tbody");
  outputs.body.append(pictures, texts);
  sent.body.append(prompts, links);
  nodes.body.append(el("table", { class: "nodes" },
    el("thead", {}, el("tr", {}, ["Node", "Time", "When it ran"].map((head) => el("th", { scope: "col" }, head)))), rows));
  error.root.hidden = true;
  const run = running({ member, id }, (found) => { reports = found; draw(); });
  const parts = el("div", { class: "stack" }, run.root, error.root, outputs.root, sent.root, nodes.root);
  let job = null, asked = 0, seen = null, reports = {};

  async function load() {
    const mine = ++asked;
    try {
      const answer = await get(`api/jobs/${encodeURIComponent(id)}`, { member });
      if (mine !== asked) return;
      job = answer;
    } catch (failed) {
      if (mine !== asked) return;
      missing.hidden = job != null;
      parts.hidden = job == null;
      if (job == null) text(missing, failed.message);
      return;
    }
    missing.hidden = true;
    parts.hidden = false;
    drawSent();
    draw();
  }

  async function stop() {
    if (await ask(`Cancel ${name(job)}?`, "Cancel job")) {
      await act("POST", "api/jobs/cancel", { member, id });
    }
  }

  /** Submit the same graph once more, as its own member. */
  async function repeat() {
    again.disabled = true;
    const whole = await act("GET", `api/workflow?${new URLSearchParams({ member, id })}`);
    const made = whole && (await act("POST", "../prompt", { prompt: whole.prompt, extra_data: whole.extra_data }));
    again.disabled = false;
    if (made) location.hash = hash("job", member, made.prompt_id);
  }

  const isOwn = () => member === context.state.viewer.name && context.state.server.interface;

  function draw() {
    if (!job) return;
    const live = job.ended == null;
    text(title, name(job));
    chip.className = `chip ${job.state}`;
    text(chip, STATES[job.state]);
    cancel.hidden = !live;
    again.hidden = live || !isOwn();
    run.isShown(live && Object.keys(reports).length > 0);
    const began = job.started ?? context.now;
    const told = [
      ["Member", context.state.viewer.gateway ? job.member : ""], ["Submitted", moment(job.created)],
      ["Waited", duration(Math.min(began, job.ended ?? began) - job.created)],
      ["Ran", job.started ? duration((job.ended ?? context.now) - job.started) : ""],
      ["Account", job.account], ["Cost", cost(job.cost)], ["Cost by part", costParts(job.cost)], ["Why it waits", job.reason ?? ""], ["Id", job.id],
    ].filter(([, value]) => value);
    keyed(facts, told, ([label]) => label, ([label]) => el("div", {}, el("dt", {}, label), el("dd")),
      (entry, [, value]) => text(entry.lastChild, value));
    drawError();
    outputs.isEmpty(!job.outputs.length && !job.texts.length);
    outputs.root.hidden = live;
    keyed(pictures, job.outputs, (one) => String(one.number), output);
    keyed(texts, job.texts.map((one, number) => ({ ...one, number })), (one) => String(one.number),
      (one) => el("li", {}, el("pre", { tabindex: 0, "aria-label": `Text of node ${one.node}` }, one.text)));
    nodes.isEmpty(!job.nodes.length);
    keyed(rows, job.nodes, (node) => node.id, row, time);
  }

  function drawError() {
    error.root.hidden = !job.error;
    if (!job.error || error.body.childElementCount) return;
    const where = [job.error.class, job.error.node && `node ${job.error.node}`].filter(Boolean).join(", ");
    error.body.append(el("p", {}, el("strong", {}, job.error.type || "Error"), where && ` in ${where}`),
      el("pre", { tabindex: 0, "aria-label": "Message" }, job.error.message || "No message"));
    if (job.error.traceback) {
      error.body.append(el("details", {}, el("summary", {}, "Traceback"),
        el("pre", { tabindex: 0, "aria-label": "Traceback" }, job.error.traceback)));
    }
  }

  /** The texts of the graph, and where its workflow can be had. */
  function drawSent() {
    prompts.replaceChildren(...job.prompts.map((one) => el("li", {},
      el("small", {}, [one.role && one.role[0].toUpperCase() + one.role.slice(1), `${one.class_type} #${one.node}`].filter(Boolean).join(" · ")),
      el("pre", { tabindex: 0, "aria-label": `Prompt text of node ${one.node}` }, one.text))));
    const file = (format) => `api/workflow?${new URLSearchParams({ member, id, format })}`;
    const made = [];
    if (context.state.server.frontend) {
      made.push(el("a", { class: "button", href: `../?${new URLSearchParams({ job: id, member })}`, target: "_blank", rel: "noopener" }, "Open in the web interface"));
    }
    if (!job.graph_only) made.push(el("a", { href: file("interface"), download: true }, "Download the workflow"));
    made.push(el("a", { href: file("api"), download: true }, "Download in API format"));
    links.replaceChildren(...made);
  }

  function output(one) {
    const query = { member, id, output: one.number, at: job.ended };
    const inside = [
      el("span", { class: "picture" }, one.thumbnail ? thumbnail(query) : el("span", { class: "none" }, one.media)),
      el("span", { class: "name", title: one.filename }, one.filename),
    ];
    const place = new URLSearchParams({ filename: one.filename, subfolder: one.subfolder, type: one.type });
    return el("li", {}, isOwn() ? el("a", { href: `../view?${place}`, target: "_blank", rel: "noopener" }, inside) : inside);
  }

  function row(node) {
    return el("tr", {},
      el("th", { scope: "row" }, node.title, " ", el("small", {}, node.title === node.class ? `#${node.id}` : `${node.class} #${node.id}`)),
      el("td", { class: "time" }),
      el("td", { class: "when" }, el("span", { class: "span", "aria-hidden": "true" }, el("span"))));
  }

  /** When a node ran, in words and as a bar within the job. */
  function time(tr, node) {
    const live = job.ended == null, report = live ? reports[node.id] : null;
    const began = report?.began ?? node.began;
    const ran = report?.ran ?? node.ran ?? (began == null ? null : context.now - began);
    const whole = Math.max(1, (job.ended ?? context.now) - (job.started ?? context.now));
    const runs = live && (report?.state === "running" || (!report && node.marked));
    const ended = node.cached ? "cached" : node.began != null ? duration(node.ran) : job.state === "completed" ? "not timed" : "did not run";
    text(tr.querySelector(".time"), live ? liveWords(report, runs, ran) : ended);
    tr.classList.toggle("marked", live ? runs : node.marked);
    tr.classList.toggle("failed", node.marked && !live);
    const span = tr.querySelector(".span > span");
    span.hidden = began == null;
    if (began != null) {
      span.style.left = `${Math.min(99, Math.max(0, (100 * (began - job.started)) / whole))}%`;
      span.style.width = `${Math.min(100, Math.max(0.5, (100 * ran) / whole))}%`;
    }
  }

  function liveWords(report, runs, ran) {
    if (!report) return runs ? "running" : "not begun";
    if (runs) return report.max > 1 ? `running, step ${report.value} of ${report.max}` : "running";
    return report.state === "finished" && ran != null ? duration(ran) : WORDS[report.state] ?? "";
  }

  return {
    title: "Job",
    root: el("div", { class: "page" },
      el("p", { class: "back" }, el("a", { href: "#/jobs" }, "Jobs")),
      el("div", { class: "headline" }, title, chip, again, cancel), facts, missing, parts),
    update() {
      const live = context.state.running.find((one) => one.id === id && one.member === member);
      const word = `${context.state.history}/${live?.state}`;
      if ((job == null || job.ended == null) && word !== seen) {
        seen = word;
        load();
      } else draw();
      if (job?.ended == null && live) run.follow(job?.nodes.length ?? 0);
    },
  };
}
