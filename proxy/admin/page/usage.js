// What members used, by day, and the same as a file.

import { card, el, keyed, options, text } from "./dom.js";
import { bytes, credits, duration, hash, plural, usageCost } from "./format.js";
import { memberFilter } from "./jobs.js";
import { get } from "./server.js";

const DAY = 86_400_000;
const SPANS = [["7", "7 days"], ["30", "30 days"], ["90", "90 days"], ["365", "A year"]];
/** Rows that are shown; the file has all. */
const MOST = 500;

/** The days are those of the server, in UTC. */
const day = (at) => new Date(at).toISOString().slice(0, 10);

export function view(context, [], query) {
  const many = context.isAdmin() && context.state.viewer.gateway;
  const span = el("select", { "aria-label": "Days", change: read }, options(SPANS));
  const members = many ? memberFilter(query.get("member") ?? "", read) : null;
  const file = el("a", { download: true, class: "button" }, "Download CSV");
  const filters = el("form", { class: "filters", submit: (event) => event.preventDefault() }, span, members?.select, file);
  const costs = card("Credits", { id: "usage-costs", empty: "No costs in these days" });
  const costRows = el("tbody");
  const costFile = el("a", { download: true, class: "button" }, "Download costs");
  filters.append(costFile);
  const costHeads = ["Account", "Token", "Node class", "Credits", "Source", "Nodes", "Running time"];
  costs.body.append(el("div", { class: "wide-table", tabindex: 0, role: "group", "aria-label": "Credits by account and node class" }, el("table", { class: "numbers" },
    el("thead", {}, el("tr", {}, costHeads.map((head) => el("th", { scope: "col" }, head)))), costRows)));
  const table = card("By day", { id: "usage-days", empty: "No usage in these days" });
  const rows = el("tbody"), total = el("tfoot"), note = el("p", { class: "quiet" });
  const heads = ["Day", many && "Member", "Token", "Jobs", "Failed", "Running time", "Credits", "Outputs", "Uploaded", "Downloaded"].filter(Boolean);
  table.body.append(el("div", { class: "wide-table", tabindex: 0, role: "group", "aria-label": "Usage by day" }, el("table", { class: "numbers" },
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col" }, head)))), rows, total)), note);
  span.value = "30";
  let asked = 0, seen = null;

  async function read() {
    const mine = ++asked;
    const wanted = { from: day(context.now - (span.value - 1) * DAY), to: day(context.now), member: members?.select.value };
    const given = Object.entries(wanted).filter(([, value]) => value);
    file.href = `api/usage?${new URLSearchParams([...given, ["format", "csv"]])}`;
    costFile.href = `api/usage?${new URLSearchParams([...given, ["rows", "costs"], ["format", "csv"]])}`;
    try {
      const [answer, found] = await Promise.all([get("api/usage", wanted), get("api/usage", { ...wanted, rows: "costs" })]);
      if (mine !== asked) return;
      drawCosts(found.costs);
      draw(answer.usage.filter((row) => row.submitted || row.completed || row.failed || row.cancelled || row.bytes_up || row.bytes_down));
    } catch (error) {
      if (mine === asked) context.problem(error.message);
    }
  }

  function draw(usage) {
    const shown = usage.toReversed().slice(0, MOST);
    table.isEmpty(!usage.length);
    keyed(rows, shown, (row) => `${row.day}/${row.member}/${row.token}`, made, (tr, row) => tr.draw(row));
    const sum = (field) => usage.reduce((all, row) => all + row[field], 0);
    const whole = Object.fromEntries(["submitted", "failed", "running_seconds", "credits_reported", "credits_estimated", "unknown_costs", "outputs", "bytes_up", "bytes_down"].map((field) => [field, sum(field)]));
    total.replaceChildren(el("tr", {}, el("th", { scope: "row" }, "Sum"), many && el("td"), el("td"), cells(whole).map((value) => el("td", {}, value))));
    text(note, usage.length > MOST ? `The newest ${MOST} of ${plural(usage.length, "row")}. The file has all.` : "");
  }

  /** The sums over the days and members, the dearest first. */
  function drawCosts(found) {
    const sums = new Map();
    for (const row of found) {
      const key = JSON.stringify([row.account, row.token, row.node_class, row.source]);
      const sum = sums.get(key) ?? { ...row, key, credits: 0, nodes: 0, seconds: 0 };
      for (const field of ["credits", "nodes", "seconds"]) sum[field] += row[field];
      sums.set(key, sum);
    }
    const shown = [...sums.values()].sort((one, other) => other.credits - one.credits);
    costs.isEmpty(!shown.length);
    keyed(costRows, shown.slice(0, MOST), (row) => row.key, costRow, (tr, row) => tr.draw(row));
  }

  function costRow(row) {
    const values = costCells(row).map(() => el("td"));
    const tr = el("tr", {}, el("th", { scope: "row" }, row.account), values);
    tr.draw = (one) => costCells(one).forEach((value, index) => text(values[index], value));
    return tr;
  }

  const costCells = (row) => [row.token, row.node_class || "GPU", row.source === "unknown" ? "unknown" : credits(row.credits), row.source,
    row.node_class ? String(row.nodes) : "", row.node_class ? "" : duration(1000 * row.seconds)];

  function made(row) {
    const values = cells(row).map(() => el("td"));
    const tr = el("tr", {}, el("th", { scope: "row" }, row.day),
      many && el("td", {}, el("a", { href: hash("member", row.member) }, row.member)), el("td", {}, row.token), values);
    tr.draw = (one) => cells(one).forEach((value, index) => text(values[index], value));
    return tr;
  }

  const cells = (row) => [String(row.submitted), String(row.failed), duration(1000 * row.running_seconds), usageCost(row),
    String(row.outputs), bytes(row.bytes_up), bytes(row.bytes_down)];

  if (members) members.filled.then(read);
  else read();
  return {
    title: "Usage",
    root: el("div", { class: "page" }, el("h1", {}, "Usage"), filters, costs.root, table.root),
    update() {
      if (context.state.history === seen) return;
      const first = seen == null;
      seen = context.state.history;
      if (!first) read();
    },
  };
}
