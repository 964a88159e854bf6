// What goes on now, what went on today, and the last jobs.

import { act, get } from "./server.js";
import { ask, bar, card, el, keyed, text } from "./dom.js";
import { accountTitle, credits, duration, hash, key, moment, name, plural, short, usageCost } from "./format.js";
import { gallery } from "./jobs.js";
import { left } from "./run.js";

const LAST = 12;

export function view(context) {
  const gateway = context.state.viewer.gateway;
  const tiles = el("dl", { class: "tiles" });
  const running = card("Running", { id: "running", empty: "No jobs running" });
  const waiting = card("Waiting", { id: "waiting", empty: "No jobs waiting" });
  const usage = card("Usage today", { id: "usage", link: ["By day", "#/usage"], empty: "No jobs today" });
  const budgets = card("Budgets", { id: "budgets", link: ["Usage", "#/usage"], empty: "No budgets" });
  const accounts = card("Accounts", { id: "accounts", link: ["Balances", "#/accounts"], empty: "No account is ready" });
  const last = card("Last jobs", { id: "last", link: ["All jobs", "#/jobs"], empty: "No jobs yet. Jobs that have ended appear here." });
  const grid = gallery();
  const jobs = el("ul", { class: "rows" }), groups = el("div", { class: "groups" });
  const used = el("ul", { class: "rows usage" }), spent = el("ul", { class: "rows usage" }), health = el("ul", { class: "rows" });
  running.body.append(jobs);
  const held = el("p", { class: "quiet", hidden: true });
  const heldCount = el("span"), send = el("button", { type: "button", click: release }, "Send them");
  held.append(heldCount, " ", send);
  waiting.body.append(held, groups);
  usage.body.append(used);
  budgets.body.append(spent);
  accounts.body.append(health);
  last.body.append(grid.root);
  let ended = null, history = null;

  async function readJobs() {
    history = context.state.history;
    const answer = await get("api/jobs", { limit: LAST }).catch(() => null);
    if (answer) ended = answer.jobs;
    update();
  }

  function update() {
    const { state, now } = context;
    if (state.history !== history) readJobs();
    drawTiles(state);
    running.isEmpty(!state.running.length);
    keyed(jobs, state.running, key, (job) => runningRow(job), (row, job) => row.draw(job, now));
    waiting.isEmpty(!state.counts.waiting);
    held.hidden = !(state.counts.held && context.isAdmin());
    text(heldCount, `${plural(state.counts.held, "job")} of a restored backup held: they may have run since.`);
    keyed(groups, grouped(state), (group) => group.member, groupOf, (box, group) => box.draw(group, now));
    usage.isEmpty(!state.usage.length);
    const most = Math.max(1, ...state.usage.map((row) => row.seconds));
    keyed(used, [...state.usage].sort((a, b) => b.seconds - a.seconds), (row) => row.member, usedRow,
      (row, one) => row.draw(one, most));
    budgets.root.hidden = !state.budgets.length;
    keyed(spent, state.budgets, (budget) => `${budget.member}/${budget.name}`, budgetRow, (row, budget) => row.draw(budget));
    accounts.root.hidden = !context.isAdmin();
    accounts.isEmpty(!state.accounts.length);
    keyed(health, state.accounts, (account) => account.name, accountRow, (row, account) => row.draw(account, now));
    if (ended) {
      last.isEmpty(!ended.length);
      grid.draw(ended, { member: gateway, now });
    }
  }

  function drawTiles({ counts, accounts: all, usage: rows }) {
    const sum = (field, of) => of.reduce((total, row) => total + row[field], 0);
    const shown = [["Running", counts.running], ["Waiting", counts.waiting]];
    if (all.length) shown.push(["Slots in use", `${sum("used", all)} / ${sum("slots", all)}`]);
    shown.push(["Jobs today", sum("jobs", rows)], ["Failed today", sum("failed", rows)]);
    keyed(tiles, shown, ([label]) => label, ([label]) => el("div", {}, el("dt", {}, label), el("dd")),
      (tile, [label, value]) => {
        text(tile.lastChild, String(value));
        tile.classList.toggle("bad", label === "Failed today" && value > 0);
      });
  }

  function runningRow(job) {
    const done = bar(`Progress of ${name(job)}`), percent = el("span", { class: "percent" });
    const what = el("span", { class: "what" }), since = el("span", { class: "since" });
    const row = el("li", { class: "run" },
      el("div", { class: "names" },
        el("a", { href: hash("job", job.member, job.id), title: job.id }, name(job)),
        el("span", { class: "quiet" }, gateway && `${job.member} · `, el("code", {}, short(job.id)))),
      el("div", { class: "done" }, done.root, percent, what),
      since, cancelButton(job));
    row.draw = (one, now) => {
      done.set(one.progress);
      text(percent, `${Math.round(100 * one.progress)} %`);
      what.classList.toggle("bad", Boolean(one.reason));
      const going = [one.node, left(one.remaining)].filter(Boolean).join(" · ");
      text(what, one.reason ?? (one.started ? going : "Starting"));
      text(since, duration(now - (one.started ?? one.created)));
      since.title = one.account ? `on ${one.account}` : "";
    };
    return row;
  }

  /** The waiting jobs of each member; those whose turn comes first come first. */
  function grouped({ waiting: all, counts }) {
    const found = new Map();
    for (const job of all) {
      if (!found.has(job.member)) found.set(job.member, []);
      found.get(job.member).push(job);
    }
    return [...found].map(([member, some]) => ({ member, jobs: some, count: counts.waiting_by_member[member] ?? some.length }));
  }

  function groupOf({ member }) {
    const count = el("span", { class: "quiet" }), list = el("ol", { class: "rows" });
    const further = el("p", { class: "quiet" });
    const box = el("details", { open: true }, el("summary", {}, el("strong", {}, gateway ? member : "Queue"), " ", count), list, further);
    box.draw = (group, now) => {
      const shown = group.jobs.slice(0, 10);
      text(count, plural(group.count, "job"));
      keyed(list, shown, key, waitingRow, (row, job) => row.draw(job, now));
      text(further, group.count > shown.length ? `and ${group.count - shown.length} more` : "");
    };
    return box;
  }

  function waitingRow(job) {
    const turn = el("span", { class: "turn" }), why = el("span", { class: "what" }), since = el("span", { class: "since" });
    const row = el("li", { class: "wait" }, turn,
      el("div", { class: "names" }, el("a", { href: hash("job", job.member, job.id), title: job.id }, name(job)), why),
      since, cancelButton(job));
    row.draw = (one, now) => {
      text(turn, String(one.turn));
      turn.title = `Turn ${one.turn}`;
      text(why, one.reason ?? "");
      text(since, duration(now - one.created));
    };
    return row;
  }

  async function release() {
    const jobs = plural(context.state.counts.held, "job");
    if (await ask(`Send ${jobs} from a restored backup? First cancel those that have run since.`, "Send them")) {
      await act("POST", "api/jobs/release");
    }
  }

  function cancelButton(job) {
    return el("button", { type: "button", class: "quiet", "aria-label": `Cancel job ${short(job.id)} of ${job.member}`,
      click: async () => {
        if (await ask(`Cancel ${name(job)} (${short(job.id)}) of ${job.member}?`, "Cancel job")) {
          await act("POST", "api/jobs/cancel", { member: job.member, id: job.id });
        }
      } }, "Cancel");
  }

  /** What is spent of a budget; a budget that is near or reached stands out. */
  function budgetRow({ member, period, hard }) {
    const label = `${hard ? "Budget" : "Soft budget"} a ${period}`;
    const share = bar(`${label} of ${member}`), what = el("span", { class: "what" }), sum = el("span", { class: "since" });
    const who = gateway ? member : label;
    const row = el("li", {}, el("span", { title: member }, who), share.root, sum, what);
    row.draw = (one) => {
      share.set(Math.min(1, one.limit ? (one.spent + one.reserved) / one.limit : 1));
      text(sum, `${credits(one.spent)} of ${credits(one.limit)}`);
      const parts = [gateway && label, one.reserved > 0 && `${credits(one.reserved)} for jobs under way`,
        one.reached ? "reached" : one.near && "nearly spent", `renews ${moment(one.renews)}`];
      text(what, parts.filter(Boolean).join(" · "));
      what.classList.toggle("bad", one.near);
    };
    return row;
  }

  function usedRow({ member }) {
    const time = bar(`Running time of ${member}`), what = el("span", { class: "what" }), ran = el("span", { class: "since" });
    const who = context.isAdmin() && gateway ? el("a", { href: hash("member", member), title: member }, member) : el("span", { title: member }, member);
    const row = el("li", {}, who, time.root, ran, what);
    row.draw = (one, most) => {
      time.set(one.seconds / most);
      text(ran, duration(1000 * one.seconds));
      const parts = [plural(one.jobs, "job"), plural(one.outputs, "output"), usageCost(one)];
      if (one.failed) parts.push(`${one.failed} failed`);
      text(what, parts.join(" · "));
    };
    return row;
  }

  function accountRow(account) {
    const use = bar(`Slots of ${account.name} in use`), slots = el("span", { class: "since" }), what = el("span", { class: "what" });
    const row = el("li", {}, el("span", {}, accountTitle(account)), use.root, slots, what);
    row.draw = (one, now) => {
      use.set(one.slots ? one.used / one.slots : 0);
      text(slots, `${one.used} / ${one.slots}`);
      what.className = `what ${one.reason ? "bad" : one.events ? "good" : ""}`;
      const again = one.until ? `, retry in ${duration(one.until - now)}` : "";
      text(what, one.reason ? one.reason + again : one.events ? "Ready" : "Ready, no events yet");
    };
    return row;
  }

  return {
    title: "Overview",
    root: el("div", { class: "page" }, el("h1", { class: "unseen" }, "Overview"), tiles,
      el("div", { class: "columns" },
        el("div", { class: "stack" }, running.root, waiting.root),
        el("div", { class: "stack" }, accounts.root, usage.root, budgets.root)),
      last.root),
    update,
  };
}
