// The members, and the page of each: limits, tokens, lines to connect, the last jobs.

import { act, get } from "./server.js";
import { ask, card, el, field, keyed, notice, options, text } from "./dom.js";
import { connect } from "./connect.js";
import { bytes, hash, plural } from "./format.js";
import { gallery } from "./jobs.js";
import { tokensOf } from "./tokens.js";

/** Limits as people set them: the field, what it is called, and how many of its units are shown as 1. */
const LIMITS = [
  ["max_running", "Running jobs at once", 1], ["max_queued", "Waiting jobs", 1], ["jobs_per_day", "Jobs a day", 1],
  ["requests_per_second", "Requests a second", 1], ["upload_bytes_per_day", "Upload a day (MB)", 1e6],
  ["stored_bytes", "Stored user data (MB)", 1e6],
  ["credits_per_day", "Credits a day", 1], ["credits_per_month", "Credits a month", 1],
  ["soft_credits_per_day", "Soft credits a day", 1], ["soft_credits_per_month", "Soft credits a month", 1],
];
const PARALLEL = [["", "As the server's setting"], ["auto", "As the client can follow"], ["one", "One at a time"], ["many", "Many at once"]];

const path = (member) => `api/members/${encodeURIComponent(member)}`;
const wide = (label, input) => el("label", { class: "wide" }, el("span", {}, label), input);

/** All members, for admins. */
export function list(context) {
  if (!context.state.viewer.gateway) return alone();
  const rows = el("ul", { class: "rows members" });
  const all = card("Members", { id: "members", empty: "No members" });
  const refusal = notice();
  const form = el("form", { id: "new-member", submit: add },
    field("Name", el("input", { name: "name", required: true, maxlength: 64, autocomplete: "off" })),
    field("Role", el("select", { name: "role" }, options([["user", "user"], ["admin", "admin"]]))),
    el("button", { class: "main" }, "Add member"), refusal.root);
  const fresh = card("Add a member", { id: "add" });
  fresh.body.append(form);
  all.body.append(rows);
  let members = [];

  async function read() {
    const answer = await get("api/members").catch(() => null);
    if (answer) members = answer.members;
    draw();
  }

  async function add(event) {
    event.preventDefault();
    const said = Object.fromEntries(new FormData(form));
    const made = await act("POST", "api/members", { name: said.name.trim(), role: said.role }, refusal.say);
    if (made) location.hash = hash("member", made.name);
  }

  function draw() {
    all.isEmpty(!members.length);
    const usage = new Map(context.state.usage.map((row) => [row.member, row]));
    keyed(rows, members, (member) => member.name, made, (row, member) => row.draw(member, usage.get(member.name)));
  }

  function made({ name }) {
    const facts = el("span", { class: "what" }), role = el("span", { class: "chip" }), today = el("span", { class: "since" });
    const row = el("li", {}, el("a", { href: hash("member", name) }, name), role, facts, today);
    row.draw = (member, used) => {
      text(role, member.disabled ? "disabled" : member.role);
      role.className = `chip ${member.disabled ? "failed" : member.role === "admin" ? "running" : ""}`;
      text(facts, [`weight ${member.weight}`, plural(member.tokens, "token"), ...said(member)].join(" · "));
      text(today, `${plural(used?.jobs ?? 0, "job")} today`);
    };
    return row;
  }

  read();
  return {
    title: "Members",
    root: el("div", { class: "page" }, el("h1", {}, "Members"), all.root, fresh.root),
    update: draw,
    membersChanged: read,
  };
}

/** What a server without members says in their place. */
function alone() {
  const box = card("No members", { id: "members" });
  box.body.append(
    el("p", {}, "Everyone who reaches this server is its one user. To give each person or program a separate queue, history and files, add members on the command line:"),
    el("pre", {}, "comfy-cloud-proxy member add NAME --role admin\ncomfy-cloud-proxy token new NAME"),
    el("p", { class: "quiet" }, "From the first member on, every request needs a token."));
  return { title: "Members", root: el("div", { class: "page" }, el("h1", {}, "Members"), box.root), update() {} };
}

/** The limits of a member that are set, in words. */
function said(member) {
  const limits = LIMITS.filter(([name]) => name !== "stored_bytes" && member.limits[name] != null)
    .map(([name, label, unit]) => `${label.replace(" (MB)", "").toLowerCase()}: ${unit > 1 ? bytes(member.limits[name]) : member.limits[name]}`);
  if (member.limits.denied_classes.length) limits.push(`${plural(member.limits.denied_classes.length, "node class", "node classes")} denied`);
  if (member.limits.deny_partner_nodes) limits.push("no partner nodes");
  return limits;
}

/** The page of one member: an admin may change it, the member sees it as its own. */
export function view(context, [name]) {
  const admin = context.isAdmin(), own = name === context.state.viewer.name;
  const chip = el("span", { class: "chip" });
  const limits = card(admin ? "Role and limits" : "Limits", { id: "limits" });
  const lines = context.state.server.interface ? connect("TOKEN") : null;
  const tokens = tokensOf(context, name, (token) => lines?.show(token, "The new token is in these lines while this page is open."));
  const last = card("Last jobs", { id: "last", link: ["All jobs", `#/jobs?member=${encodeURIComponent(name)}`], empty: "No jobs yet" });
  const missing = el("p", { class: "empty", hidden: true }, "There is no such member.");
  const grid = gallery();
  const disable = el("button", { type: "button", hidden: true, click: toggle });
  const remove = el("button", { type: "button", class: "danger", hidden: true, click: drop }, "Remove member");
  const parts = el("div", { class: "stack" }, limits.root, tokens.root, lines?.root, last.root);
  let member = null, form = null, shown = "", history = null, jobs = null, removed = false;
  last.body.append(grid.root);

  async function read() {
    if (removed) return;
    try {
      const { members } = await get("api/members", admin ? {} : { member: name });
      member = members.find((one) => one.name === name) ?? null;
      if (member) await tokens.read();
    } catch {
      if (member) return; // drawn again with the next change, or when the connection is back
    }
    missing.hidden = member != null;
    parts.hidden = member == null;
    if (member) draw();
  }

  async function readJobs() {
    history = context.state.history;
    const answer = await get("api/jobs", { member: name, limit: 6 }).catch(() => null);
    if (answer) jobs = answer.jobs;
    update();
  }

  function draw() {
    chip.className = `chip ${member.disabled ? "failed" : member.role === "admin" ? "running" : ""}`;
    text(chip, member.disabled ? "disabled" : member.role);
    disable.hidden = remove.hidden = !admin || own;
    text(disable, member.disabled ? "Enable" : "Disable");
    disable.setAttribute("aria-label", `${disable.textContent} ${name}`);
    const now = JSON.stringify(member);
    if (now !== shown && !form?.contains(document.activeElement)) {
      shown = now;
      form = admin ? editor() : el("ul", { class: "plain" }, facts().map((one) => el("li", {}, one)));
      limits.body.replaceChildren(form);
    }
    tokens.draw();
  }

  function facts() {
    const found = said(member).map((one) => one[0].toUpperCase() + one.slice(1));
    return found.length ? found : ["No limits"];
  }

  function editor() {
    const refusal = notice();
    const done = el("span", { class: "good", role: "status" });
    const save = el("button", { class: "main", disabled: true }, "Save");
    const number = ([limit, label, unit]) => field(label, el("input", { name: limit, type: "number", min: 0, step: "any", placeholder: "no limit",
      value: member.limits[limit] == null ? null : member.limits[limit] / unit }));
    const role = el("select", { name: "role", disabled: own }, options([["user", "user"], ["admin", "admin"]]));
    const parallel = el("select", { name: "client_parallelism" }, options(PARALLEL));
    role.value = member.role;
    parallel.value = member.client_parallelism ?? "";
    const made = el("form", { class: "fields", "aria-label": "Role and limits", input: () => { save.disabled = false; text(done, ""); }, submit },
      field("Role", role),
      field("Weight (share of turns)", el("input", { name: "weight", type: "number", min: 0.01, max: 1000, step: "any", required: true, value: member.weight })),
      LIMITS.map(number), field("Jobs of one client", parallel),
      field("First account", el("input", { name: "account", maxlength: 200, placeholder: "none", value: member.account ?? "" })),
      wide("Denied node classes, one a line", el("textarea", { name: "denied_classes", rows: 2, spellcheck: "false", placeholder: "none" }, member.limits.denied_classes.join("\n"))),
      el("label", { class: "check" }, el("input", { name: "deny_partner_nodes", type: "checkbox", checked: member.limits.deny_partner_nodes }), el("span", {}, "Deny partner nodes")),
      el("div", { class: "acts" }, save, done), refusal.root);

    async function submit(event) {
      event.preventDefault();
      const given = Object.fromEntries(new FormData(made));
      const limit = ([one, , unit]) => [one, given[one] === "" ? null : unit > 1 ? Math.round(unit * Number(given[one])) : Number(given[one])];
      const wanted = {
        weight: Number(given.weight),
        client_parallelism: given.client_parallelism || null,
        account: given.account.trim() || null,
        limits: {
          ...Object.fromEntries(LIMITS.map(limit)),
          denied_classes: given.denied_classes.split(/\s+/).filter(Boolean),
          deny_partner_nodes: given.deny_partner_nodes === "on",
        },
      };
      if (!own) wanted.role = given.role;
      const answer = await act("PATCH", path(name), wanted, refusal.say);
      if (!answer) return;
      member = answer;
      shown = JSON.stringify(member);
      save.disabled = true;
      text(done, "Saved");
      draw();
    }
    return made;
  }

  async function toggle() {
    if (member.disabled || (await ask(`Disable ${name}? Open connections are closed.`, "Disable"))) {
      await act("PATCH", path(name), { disabled: !member.disabled });
      await read();
    }
  }

  async function drop() {
    if (!(await ask(`Remove ${name} and all tokens? History and files stay on disk.`, "Remove"))) return;
    removed = true;
    if (await act("DELETE", path(name))) location.hash = "#/members";
    else removed = false;
  }

  function update() {
    if (context.state.history !== history) return void readJobs();
    last.isEmpty(jobs != null && !jobs.length);
    if (jobs) grid.draw(jobs, { member: false, now: context.now });
    if (member) tokens.draw();
  }

  read();
  return {
    title: name,
    root: el("div", { class: "page" }, admin && el("p", { class: "back" }, el("a", { href: "#/members" }, "Members")),
      el("div", { class: "headline" }, el("h1", {}, name), chip, disable, remove), missing, parts),
    update,
    membersChanged: read,
  };
}
