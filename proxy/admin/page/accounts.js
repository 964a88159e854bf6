// The accounts: how they are, and how they were in the last day.

import { bar, card, el, keyed, text } from "./dom.js";
import { accountTitle, clock, duration } from "./format.js";
import { balanceOf } from "./balance.js";
import { get } from "./server.js";

const AGAIN = 20_000;

export function view(context) {
  const list = el("div", { class: "stack" });
  const none = el("p", { class: "empty" }, "No account is ready");
  let day = null, balances = null;
  const timer = setInterval(read, AGAIN);
  read();

  async function read() {
    const [activity, left] = await Promise.all(["api/activity", "api/billing"].map((path) => get(path).catch(() => null)));
    if (activity) day = activity;
    if (left) balances = left;
    update();
  }

  function update() {
    const { state, now } = context;
    none.hidden = state.accounts.length > 0;
    keyed(list, state.accounts, (account) => account.name, made, (box, account) => box.draw(account, now));
  }

  function made(account) {
    const box = card(accountTitle(account));
    const use = bar(`Slots of ${account.name} in use`), slots = el("span", { class: "since" }), what = el("span", { class: "what" });
    const strip = el("div", { class: "strip", role: "img" }), ends = el("div", { class: "ends" }, el("span"), el("span", {}, "Now"));
    const told = el("ul", { class: "incidents" }), calm = el("p", { class: "quiet" });
    const plan = el("p", { class: "quiet" }), balance = balanceOf(account.name, read);
    box.body.append(el("div", { class: "now" }, what, use.root, slots), plan, balance.root, strip, ends, told, calm);
    box.root.draw = (one, now) => {
      use.set(one.slots ? one.used / one.slots : 0);
      text(plan, one.plan);
      plan.hidden = !one.plan;
      text(slots, `${one.used} of ${one.slots} slots in use`);
      what.className = `what ${one.reason ? "bad" : "good"}`;
      const again = one.until ? `, retry in ${duration(one.until - now)}` : "";
      text(what, one.reason ? one.reason + again : one.events ? "Ready" : "Ready, no events yet");
      const left = balances?.accounts.find((some) => some.name === one.name);
      balance.root.hidden = !left;
      if (left) balance.draw(left.balance);
      if (!day) return;
      text(ends.firstChild, day.is_new ? `${clock(day.from)}, the start` : "24 hours ago");
      const points = day.accounts.find((some) => some.name === one.name)?.points ?? [];
      const cells = hours(points);
      keyed(strip, cells, (cell) => String(cell.at), () => el("span"), (span, cell) => {
        span.className = cell.state;
        span.title = `${clock(cell.at)}: ${cell.words}`;
      });
      const found = incidents(points);
      strip.setAttribute("aria-label", `Health of the last 24 hours: ${found.length ? `${found.length} problems` : "no problems"}`);
      keyed(told, found, (one) => `${one.from}`, () => el("li"), (item, one) => text(item, `${clock(one.from)}–${clock(one.to)}: ${one.reason}`));
      text(calm, found.length ? "" : points.length ? "No problems in the last 24 hours" : "No records yet");
    };
    return box.root;
  }

  /** A cell for each quarter of an hour. */
  function hours(points) {
    const step = 3 * day.interval, first = Math.floor(day.from / step) * step, cells = [];
    for (let at = first; at <= day.to; at += step) {
      const inside = points.filter((point) => point.at >= at && point.at < at + step);
      const bad = inside.find((point) => point.reason);
      const busy = inside.some((point) => point.used > 0);
      cells.push(bad ? { at, state: "bad", words: bad.reason }
        : inside.length ? { at, state: busy ? "busy" : "idle", words: busy ? "in use" : "idle" }
          : { at, state: "unknown", words: "no record" });
    }
    return cells;
  }

  /** Times without a break in which an account took no jobs for one reason, the last first. */
  function incidents(points) {
    const found = [];
    for (const point of points.filter((one) => one.reason)) {
      const last = found.at(-1);
      if (last?.reason === point.reason && last.to === point.at) last.to += day.interval;
      else found.push({ from: point.at, to: point.at + day.interval, reason: point.reason });
    }
    return found.reverse().slice(0, 20);
  }

  return {
    title: "Accounts",
    root: el("div", { class: "page" }, el("h1", {}, "Accounts"), none, list),
    update,
    leave: () => clearInterval(timer),
  };
}
