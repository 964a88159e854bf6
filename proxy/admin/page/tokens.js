// The tokens of a member; each secret is shown once, also as a link that signs in.

import { act, get } from "./server.js";
import { $, ask, card, copy, el, field, keyed, notice, options, text } from "./dom.js";
import { ago, moment } from "./format.js";

const EXPIRIES = [["", "Never"], ["1d", "In a day"], ["7d", "In a week"], ["30d", "In 30 days"], ["90d", "In 90 days"], ["365d", "In a year"]];

const date = (at) => new Date(at).toLocaleDateString();

/** The card of a member's tokens; `made` is called with a new one. */
export function tokensOf(context, member, made) {
  const box = card("Tokens", { id: "tokens", empty: "No tokens" });
  const rows = el("ul", { class: "rows tokens" });
  let tokens = [], asked = 0;
  box.body.before(newToken());
  box.body.append(rows);

  async function read() {
    const mine = ++asked;
    const answer = await get("api/tokens", { member });
    if (mine !== asked) return;
    tokens = answer.tokens;
    draw();
  }

  function draw() {
    box.isEmpty(!tokens.length);
    keyed(rows, tokens, (token) => token.id, tokenRow, (row, token) => row.draw(token));
  }

  function newToken() {
    const refusal = notice();
    const form = el("form", { id: "new-token", class: "inline", "aria-label": "New token", submit: async (event) => {
      event.preventDefault();
      const { note, expires } = Object.fromEntries(new FormData(form));
      const answer = await act("POST", "api/tokens", { member, note, ...(expires && { expires }) }, refusal.say);
      if (!answer) return;
      form.reset();
      const link = context.state.server.interface ? new URL(`sign-in#${answer.token}`, location.href.split("#")[0]).href : "";
      showSecret(`A token for ${member}`, "The token is shown only once. Anyone with this token can act as this member.", answer.token, link);
      made(answer.token);
      await read();
    } },
    field("Note", el("input", { name: "note", maxlength: 200, autocomplete: "off", placeholder: "What it is for" })),
    field("Expires", el("select", { name: "expires" }, options(EXPIRIES))),
    el("span", { class: "acts" }, el("button", {}, "New token")), refusal.root);
    return form;
  }

  function revoke({ id, shown }) {
    return el("button", { type: "button", class: "quiet", "aria-label": `Revoke ${shown}`, click: async () => {
      if (await ask(`Revoke ${shown} of ${member}? It stops working within a second.`, "Revoke")) {
        await act("DELETE", `api/tokens/${encodeURIComponent(id)}`);
        await read();
      }
    } }, "Revoke");
  }

  function tokenRow(token) {
    const used = el("span", { class: "what" }), until = el("span", { class: "since" });
    const row = el("li", {}, el("code", {}, token.shown), el("span", { class: "note" }, token.note || "No note"), used, until,
      revoke(token));
    row.draw = ({ last_used: use, expires }) => {
      text(used, use ? `Used ${ago(context.now - use.at)} from ${use.address}` : "Never used");
      used.title = use ? moment(use.at) : "";
      const over = expires != null && expires < context.now;
      text(until, expires == null ? "Does not expire" : `${over ? "Expired" : "Expires"} ${date(expires)}`);
      until.classList.toggle("bad", over);
    };
    return row;
  }

  return { root: box.root, read, draw };
}

const dialog = $("#secret"), part = (name) => $(`[data-of=${name}]`, dialog);

/** Show a secret, once, and a link with it if there is one. */
export function showSecret(title, words, secret, link = "") {
  text($("#secret-title"), title);
  text(part("words"), words);
  text(part("secret"), secret);
  text(part("link"), link);
  part("with-link").hidden = !link;
  dialog.showModal();
}
dialog.addEventListener("close", () => {
  for (const name of ["secret", "link", "copied"]) text(part(name), "");
});
for (const name of ["secret", "link"]) {
  $(`[data-copies=${name}]`, dialog).addEventListener("click", async () => {
    text(part("copied"), (await copy(part(name))) ? "Copied." : "Copy the selected text yourself.");
  });
}
