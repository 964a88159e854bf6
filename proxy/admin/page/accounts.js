// The accounts: how they are, and what is left on them.

import { bar, card, el, keyed, text } from "./dom.js";
import { accountTitle, duration } from "./format.js";
import { balanceOf } from "./balance.js";
import { get } from "./server.js";

const AGAIN = 20_000;

export function view(context) {
  const list = el("div", { class: "stack" });
  const none = el("p", { class: "empty" }, "No account is ready");
  let balances = null;
  const timer = setInterval(read, AGAIN);
  read();

  async function read() {
    const left = await get("api/billing").catch(() => null);
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
    const plan = el("p", { class: "quiet" }), balance = balanceOf(account.name, read);
    box.body.append(el("div", { class: "now" }, what, use.root, slots), plan, balance.root);
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
    };
    return box.root;
  }

  return {
    title: "Accounts",
    root: el("div", { class: "page" }, el("h1", {}, "Accounts"), none, list),
    update,
    leave: () => clearInterval(timer),
  };
}
