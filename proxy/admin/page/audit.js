// Who did what, when and from where: the audit log, for admins.

import { card, el, keyed, options } from "./dom.js";
import { moment } from "./format.js";
import { get } from "./server.js";

const PAGE = 50;
const ACTIONS = ["submit", "cancel", "jobs_released", "jobs_held", "delete", "clear_queue", "interrupt", "sign_in", "sign_out", "sign_in_refused",
  "member_added", "member_changed", "member_provisioned", "member_role_changed", "member_enabled", "member_disabled",
  "member_removed", "token_created", "token_revoked", "webhook_added",
  "webhook_changed", "webhook_removed", "webhook_tested", "webhook_secret_replaced", "balance_entered", "lines_dropped"];

const COLUMNS = new Set(["at", "action", "member", "address"]);

const words = (action) => action.replaceAll("_", " ");
/** What an entry says beside its columns. */
const about = (entry) => Object.entries(entry).filter(([name, value]) => !COLUMNS.has(name) && value !== "")
  .map(([name, value]) => `${name}: ${Array.isArray(value) ? value.join(", ") : value}`).join(" · ");

export function view(context, [], query) {
  const member = el("input", { type: "search", value: query.get("member") ?? "", maxlength: 64, placeholder: "Member",
    "aria-label": "Member", autocomplete: "off" });
  const action = el("select", { "aria-label": "Action", change: () => read(false) },
    options([["", "All actions"], ...ACTIONS.map((one) => [one, words(one)])]));
  const filters = el("form", { class: "filters", role: "search", submit: (event) => event.preventDefault() }, member, action);
  const log = card("Audit log", { id: "audit", empty: "No entries" });
  const rows = el("tbody");
  const more = el("button", { type: "button", class: "more", hidden: true, click: () => read(true) }, "Show more");
  log.body.append(el("table", {}, el("thead", {}, el("tr", {},
    ["Time", "Member", "Action", "Address", "About"].map((head) => el("th", { scope: "col" }, head)))), rows));
  let entries = [], asked = 0, timer = null;

  member.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => read(false), 250);
  });

  async function read(further) {
    const mine = ++asked, offset = further ? entries.length : 0;
    try {
      const page = await get("api/audit", { member: member.value.trim(), action: action.value, limit: PAGE, offset });
      if (mine !== asked) return;
      entries = further ? [...entries, ...page.entries] : page.entries;
      more.hidden = !page.has_more;
      draw();
    } catch (error) {
      if (mine === asked) context.problem(error.message);
    }
  }

  function draw() {
    log.isEmpty(!entries.length);
    const numbered = entries.map((entry, number) => ({ entry, number }));
    keyed(rows, numbered, ({ entry, number }) => `${number}/${entry.at}/${entry.action}`, ({ entry }) => made(entry));
  }

  function made(entry) {
    return el("tr", {}, el("th", { scope: "row" }, el("time", { datetime: entry.at }, moment(Date.parse(entry.at)))),
      el("td", {}, entry.member), el("td", {}, words(entry.action)), el("td", {}, entry.address), el("td", { class: "what" }, about(entry)));
  }

  read(false);
  return {
    title: "Audit",
    root: el("div", { class: "page" }, el("h1", {}, "Audit"), filters, log.root, more),
    update() {},
    leave: () => clearTimeout(timer),
  };
}
