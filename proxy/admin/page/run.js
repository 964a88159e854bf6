// A job that runs: how much of it is done, how long it will still take, and its last preview.

import { bar, card, el, text } from "./dom.js";
import { duration, plural } from "./format.js";
import { get } from "./server.js";

/** The time that is left in words, `""` if no graph of the same shape has run before. */
export function left(ms) {
  if (ms == null) return "";
  if (ms < 1000) return "almost done";
  return `about ${ms < 10_000 ? `${Math.ceil(ms / 1000)} s` : duration(ms)} left`;
}

/** The card of a job that runs. `follow` asks the server again; `drawn` is called with the answer. */
export function running({ member, id }, drawn) {
  const box = card("Progress", { id: "run" });
  const done = bar("Progress"), percent = el("span", { class: "percent" }), what = el("p", { class: "quiet" });
  const picture = el("img", { class: "preview", alt: "Preview", loading: "eager", hidden: true });
  let asking = false, preview = null, total = 0;
  box.body.append(el("div", { class: "done" }, done.root, percent), what, picture);
  box.root.hidden = true;

  async function follow(nodes) {
    total = nodes;
    if (asking) return;
    asking = true;
    const run = await get("api/run", { member, id }).catch(() => null);
    asking = false;
    if (run?.progress == null) return;
    done.set(run.progress);
    text(percent, `${Math.round(100 * run.progress)} %`);
    text(what, words(run));
    show(run.preview);
    drawn(run.nodes);
  }

  function words(run) {
    const states = Object.values(run.nodes).map((node) => node.state);
    const count = (wanted) => states.filter((state) => wanted.includes(state)).length;
    const [finished, runs] = [count(["finished", "cached"]), count(["running"])];
    const parts = [`${plural(finished, "node")} done`, `${runs} running`, `${Math.max(0, total - finished - runs)} not begun`];
    return [parts.join(", "), left(run.remaining)].filter(Boolean).join(" · ");
  }

  function show(name) {
    if (name === preview) return;
    preview = name;
    picture.hidden = !name;
    if (name) picture.src = `api/preview?${new URLSearchParams({ member, id, name })}`;
  }

  return { root: box.root, follow, isShown: (yes) => { box.root.hidden = !yes; } };
}
