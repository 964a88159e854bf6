// What an account was billed in the last 30 days, and what is left on it.

import { el, field, text } from "./dom.js";
import { credits } from "./format.js";
import { act } from "./server.js";

/** Where a balance comes from. */
const SOURCES = { reported: "as Comfy Cloud reports", entered: "as entered, less what jobs have cost since" };

const UNREAD = {
  refused: "Comfy Cloud does not tell this key what it books.",
  allowed: "What Comfy Cloud has booked is read once an hour.",
  unknown: "What Comfy Cloud has booked is read once an hour.",
};

/** The part of an account's card; `changed` is called after a balance was entered. */
export function billing(name, changed) {
  const left = el("p"), compared = el("p", { class: "quiet" });
  const amount = el("input", { type: "number", min: 0, step: "any", required: true });
  const form = el("form", { class: "filters", submit: enter }, field("Credits left", amount), el("button", {}, "Enter balance"));

  async function enter(event) {
    event.preventDefault();
    if (!await act("PATCH", `api/billing/${encodeURIComponent(name)}`, { credits: Number(amount.value) })) return;
    amount.value = "";
    changed();
  }

  function draw({ access, balance, booked, ledger, difference }) {
    const amountLeft = balance.credits == null ? balance.text : credits(balance.credits);
    text(left, balance.source === "unknown" ? "Credits left: unknown" : `${amountLeft} left, ${SOURCES[balance.source]}`);
    text(compared, booked == null ? UNREAD[access]
      : `On the days that were read, jobs have cost ${credits(ledger)}, and Comfy Cloud has booked ${credits(booked)}: a difference of ${credits(difference)}.`);
    form.hidden = balance.source === "reported";
  }

  return { root: el("div", { class: "stack" }, left, compared, form), draw };
}
