// What is left on an account.

import { el, field, text } from "./dom.js";
import { credits } from "./format.js";
import { act } from "./server.js";

/** Where a balance comes from. */
const SOURCES = { reported: "as Comfy Cloud reports", entered: "as entered, less what jobs have cost since" };

/** The part of an account's card; `changed` is called after a balance was entered. */
export function balanceOf(name, changed) {
  const left = el("p");
  const amount = el("input", { type: "number", min: 0, step: "any", required: true });
  const form = el("form", { class: "filters", submit: enter }, field("Credits left", amount), el("button", {}, "Enter balance"));

  async function enter(event) {
    event.preventDefault();
    if (!await act("PATCH", `api/billing/${encodeURIComponent(name)}`, { credits: Number(amount.value) })) return;
    amount.value = "";
    changed();
  }

  function draw(balance) {
    const amountLeft = balance.credits == null ? balance.text : credits(balance.credits);
    text(left, balance.source === "unknown" ? "Credits left: unknown" : `${amountLeft} left, ${SOURCES[balance.source]}`);
    form.hidden = balance.source === "reported";
  }

  return { root: el("div", { class: "stack" }, left, form), draw };
}
