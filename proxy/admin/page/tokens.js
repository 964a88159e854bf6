// The tokens of a member and the invitations to be one; each secret is shown once.

import { act, get } from "./server.js";
import { $, ask, card, copy, el, field, keyed, notice, options, text } from "./dom.js";
import { ago, moment } from "./format.js";

const EXPIRIES = [["", "Never"], ["1d", "In a day"], ["7d", "In a week"], ["30d", "In 30 days"], ["90d", "In 90 days"], ["365d", "In a year"]];

const date = (at) => new Date(at).toLocaleDateString();

/** The card of a member's tokens; `made` is called with a new one. Admins invite here, too. */
export function tokensOf(context, member, made) {
  const box = card("Tokens", { id: "tokens", empty: "No tokens" });
  const rows = el("ul", { class: "rows tokens" }), open = el("ul", { class: "rows tokens invitations" });
  const invites = context.isAdmin() && context.state.server.interface;
  let tokens = [], invitations = [], asked = 0;
  box.body.before(newToken());
  box.body.after(open);
  box.body.append(rows);

  async function read() {
    const mine = ++asked;
    const answer = await get("api/tokens", { member });
    const sent = invites ? await get("api/invitations", { member }) : { invitations };
    if (mine !== asked) return;
    tokens = answer.tokens;
    invitations = sent.invitations;
    draw();
  }

  function draw() {
    box.isEmpty(!tokens.length);
    keyed(rows, tokens, (token) => token.id, tokenRow, (row, token) => row.draw(token));
    open.hidden = !invitations.length;
    keyed(open, invitations, (one) => one.id, invitationRow);
  }

  function newToken() {
    const refusal = notice();
    const form = el("form", { id: "new-token", class: "inline", "aria-label": "New token", submit: async (event) => {
      event.preventDefault();
      const { note, expires } = Object.fromEntries(new FormData(form));
      const answer = await act("POST", "api/tokens", { member, note, ...(expires && { expires }) }, refusal.say);
      if (!answer) return;
      form.reset();
      showSecret(`A token for ${member}`, "The token is shown only once. Anyone with this token can act as this member.", answer.token);
      made(answer.token);
      await read();
    } },
    field("Note", el("input", { name: "note", maxlength: 200, autocomplete: "off", placeholder: "What it is for" })),
    field("Expires", el("select", { name: "expires" }, options(EXPIRIES))),
    el("span", { class: "acts" }, el("button", {}, "New token"), invites && el("button", { type: "button", click: async () => {
      if (await invite(member, refusal.say)) await read();
    } }, "Invitation link")), refusal.root);
    return form;
  }

  function revoke(name, question, path) {
    return el("button", { type: "button", class: "quiet", "aria-label": `Revoke ${name}`, click: async () => {
      if (await ask(question, "Revoke")) {
        await act("DELETE", path);
        await read();
      }
    } }, "Revoke");
  }

  function tokenRow(token) {
    const used = el("span", { class: "what" }), until = el("span", { class: "since" });
    const row = el("li", {}, el("code", {}, token.shown), el("span", { class: "note" }, token.note || "No note"), used, until,
      revoke(token.shown, `Revoke ${token.shown} of ${member}? It stops working within a second.`, `api/tokens/${encodeURIComponent(token.id)}`));
    row.draw = ({ last_used: use, expires }) => {
      text(used, use ? `Used ${ago(context.now - use.at)} from ${use.address}` : "Never used");
      used.title = use ? moment(use.at) : "";
      const over = expires != null && expires < context.now;
      text(until, expires == null ? "Does not expire" : `${over ? "Expired" : "Expires"} ${date(expires)}`);
      until.classList.toggle("bad", over);
    };
    return row;
  }

  function invitationRow(one) {
    return el("li", {}, el("code", {}, one.shown), el("span", { class: "note" }, "Invitation"), el("span", { class: "what" }, `By ${one.inviter}, not accepted yet`),
      el("span", { class: "since" }, `Expires ${date(one.expires)}`),
      revoke(one.shown, `Revoke the invitation ${one.shown}?`, `api/invitations/${encodeURIComponent(one.id)}`));
  }

  return { root: box.root, read, draw };
}

/** Make an invitation and show its link; the answer, or null after a problem that `tell` has shown. */
export async function invite(member, tell) {
  const made = await act("POST", "api/invitations", { member }, tell);
  if (made) {
    const link = new URL(`invitation#${made.code}`, location.href.split("#")[0]).href;
    showSecret(`An invitation for ${member}`, `Send this link to ${member} in private. It works once, until ${date(made.expires)}: it signs ${member} in and shows the token.`, link);
  }
  return made;
}

const dialog = $("#secret"), part = (name) => $(`[data-of=${name}]`, dialog);

/** Show a secret, once. */
export function showSecret(title, words, secret) {
  text($("#secret-title"), title);
  text(part("words"), words);
  text(part("secret"), secret);
  dialog.showModal();
}
dialog.addEventListener("close", () => {
  for (const name of ["secret", "copied"]) text(part(name), "");
});
$("[data-act=copy]", dialog).addEventListener("click", async () => {
  text(part("copied"), (await copy(part("secret"))) ? "Copied." : "Copy the selected text yourself.");
});
