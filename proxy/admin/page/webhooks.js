// The webhooks of the viewer, and for admins those of everybody: what was sent, and what was not.

import { act, get } from "./server.js";
import { ask, card, el, field, keyed, notice, text } from "./dom.js";
import { ago, moment } from "./format.js";
import { showSecret } from "./tokens.js";

/** The types of messages: the name, what it is called, whether it is chosen at first and whether it is of the gateway alone. */
const TYPES = [
  ["job.started", "Started", false, false], ["job.completed", "Completed", true, false], ["job.failed", "Failed", true, false],
  ["job.cancelled", "Cancelled", true, false], ["budget.near", "Budget nearly spent", false, false], ["budget.reached", "Budget reached", false, false],
  ["account.unavailable", "Account unavailable", false, true],
  ["account.recovered", "Account recovered", false, true],
];
const LABELS = new Map(TYPES.map(([name, label]) => [name, label]));
/** Milliseconds after which the outcome of a test is looked for again. */
const LOOK = 1000;

const path = (id, rest = "") => `api/webhooks/${encodeURIComponent(id)}${rest}`;
const SIGNS = "It signs the messages. It is shown only once.";

export function view(context) {
  const { viewer } = context.state, admin = context.isAdmin(), many = admin && viewer.gateway;
  const rows = el("ul", { class: "rows hooks" });
  const all = card("Webhooks", { id: "webhooks", empty: "No webhooks" });
  const fresh = card("Add a webhook", { id: "new-webhook" });
  let webhooks = [], left = false;
  all.body.append(rows);
  fresh.body.append(newWebhook());

  async function read() {
    const answer = await get("api/webhooks").catch(() => null);
    if (answer && !left) {
      webhooks = answer.webhooks;
      draw();
    }
  }

  function draw() {
    all.isEmpty(!webhooks.length);
    keyed(rows, webhooks, (hook) => hook.id, made, (row, hook) => row.draw(hook));
  }

  function newWebhook() {
    const refusal = notice();
    const gateway = many && el("input", { type: "checkbox", name: "gateway", change: () => choose() });
    const boxes = TYPES.map(([name, label, chosen, apart]) =>
      el("label", { class: "choice", "data-apart": apart }, el("input", { type: "checkbox", name: "types", value: name, checked: chosen }), label));
    const form = el("form", { "aria-label": "New webhook", submit: async (event) => {
      event.preventDefault();
      const data = new FormData(form);
      const body = { url: data.get("url").trim(), types: data.getAll("types"), gateway: admin && (!many || gateway.checked) };
      const answer = await act("POST", "api/webhooks", body, refusal.say);
      if (!answer) return;
      form.reset();
      choose();
      showSecret("The secret of the webhook", SIGNS, answer.secret);
      await read();
    } },
    field("URL", el("input", { name: "url", type: "url", required: true, maxlength: 2000, autocomplete: "off", placeholder: "https://example.com/hooks" })),
    gateway && el("label", { class: "choice" }, gateway, "For the jobs of all members"),
    el("fieldset", { class: "choices" }, el("legend", {}, "Messages"), boxes),
    el("button", { class: "main" }, "Add webhook"), refusal.root);

    /** Offer the messages about accounts where they are sent. */
    function choose() {
      for (const box of boxes.filter((one) => one.dataset.apart != null)) {
        box.hidden = !(admin && (!many || gateway.checked));
        if (box.hidden) box.firstChild.checked = false;
      }
    }
    choose();
    return form;
  }

  function made({ id, url: name, member }) {
    const owner = member ?? "all members";
    const types = el("span", { class: "what" }), state = el("span", { class: "since" }), off = el("p", { class: "problem", hidden: true });
    const log = el("ol", { class: "log", hidden: true });
    const button = (label, click, more = {}) => el("button", { type: "button", class: "quiet", "aria-label": `${label}: ${name}`, click, ...more }, label);
    const toggle = button("Disable", async () => changed(act("PATCH", path(id), { disabled: off.hidden })));
    const opener = button("Log", () => open(log.hidden), { "aria-expanded": "false" });
    const row = el("li", {}, el("code", {}, name), many && el("span", { class: "chip" }, owner), state, types, off,
      el("span", { class: "acts" },
        button("Test", test), opener, toggle,
        button("New secret", renew), button("Remove", async () => {
          if (await ask(`Remove the webhook ${name}?`, "Remove")) await changed(act("DELETE", path(id)));
        })), log);

    async function changed(done) {
      await done;
      await read();
    }

    async function test() {
      const answer = await act("POST", path(id, "/test"));
      if (!answer) return;
      await open(true);
      while (!left && !log.hidden && row.isConnected) {
        const found = (await entries()).find((one) => one.message === answer.message);
        if (found && found.outcome !== "waiting") break;
        await new Promise((later) => setTimeout(later, LOOK));
      }
      await read();
    }

    async function open(yes) {
      log.hidden = !yes;
      opener.setAttribute("aria-expanded", String(yes));
      if (yes) await entries();
    }

    async function entries() {
      const answer = await get(path(id, "/deliveries")).catch(() => ({ deliveries: [] }));
      const found = answer.deliveries;
      log.replaceChildren(...(found.length ? found.map(entry) : [el("li", { class: "empty" }, "Nothing was sent yet")]));
      return found;
    }

    async function renew() {
      if (!(await ask(`Give ${name} a new secret? The old one signs nothing more.`, "New secret"))) return;
      const answer = await act("POST", path(id, "/secret"));
      if (answer) showSecret("The new secret of the webhook", SIGNS, answer.secret);
    }

    function entry(one) {
      const tried = one.attempts ? `attempt ${one.attempts}, ${moment(one.attempted)}` : "not attempted yet";
      const next = one.outcome === "waiting" && one.attempts ? `next ${moment(one.next)}` : null;
      return el("li", {}, el("span", { class: `chip ${COLORS[one.outcome] ?? ""}` }, one.outcome), el("code", {}, one.type),
        el("span", { class: "what" }, [one.status, tried, next, one.note].filter(Boolean).join(" · ")));
    }

    row.draw = (hook) => {
      text(types, hook.types.map((type) => LABELS.get(type) ?? type).join(" · "));
      text(state, hook.last?.attempted ? `${hook.last.outcome} ${ago(context.now - hook.last.attempted)}` : "Nothing sent yet");
      off.hidden = !hook.disabled;
      text(off, hook.disabled ? `Disabled ${moment(hook.disabled_at)}: ${hook.disabled}` : "");
      text(toggle, hook.disabled ? "Enable" : "Disable");
      toggle.setAttribute("aria-label", `${toggle.textContent}: ${name}`);
    };
    return row;
  }

  read();
  const timer = setInterval(read, 10 * LOOK);
  return {
    title: "Webhooks",
    root: el("div", { class: "page" }, el("h1", {}, "Webhooks"), all.root, fresh.root),
    update: draw,
    membersChanged: read,
    leave() {
      left = true;
      clearInterval(timer);
    },
  };
}

const COLORS = { delivered: "running", failed: "failed", dropped: "failed" };
