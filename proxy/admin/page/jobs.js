// Jobs as cards: the gallery with its filters, and what other views show of it.

import { el, keyed, options, text } from "./dom.js";
import { STATES, ago, cost, duration, hash, key, moment, name } from "./format.js";
import { get } from "./server.js";

const MEDIA = { images: "Image", video: "Video", videos: "Video", gifs: "Animation", audio: "Audio", "3d": "3D", text: "Text" };

/** A grid of ended jobs; `draw` takes them. With `member` each says whose it is. */
export function gallery() {
  const root = el("ul", { class: "gallery" });
  return {
    root,
    draw(jobs, { member = true, now }) {
      keyed(root, jobs, (job) => `${key(job)}/${job.ended}`, (job) => made(job, member), (card, job) => {
        text(card.querySelector("time"), ago(now - job.ended));
      });
    },
  };
}

function made(job, member) {
  const facts = [duration(job.ended - job.started), cost(job.cost)].filter(Boolean);
  return el("li", { class: `job ${job.state}` },
    el("a", { href: hash("job", job.member, job.id), "aria-label": `${name(job)}, ${STATES[job.state]}` },
      el("span", { class: "picture" }, picture(job)),
      job.state !== "completed" && el("span", { class: `chip ${job.state}` }, STATES[job.state]),
      el("strong", { title: name(job) }, name(job)),
      member && el("span", { class: "who" }, job.member),
      el("span", { class: "facts" },
        el("time", { title: moment(job.ended), datetime: new Date(job.ended).toISOString() }),
        facts.map((fact) => el("span", {}, fact))),
      job.error && el("span", { class: "reason" },
        [job.error.class, job.error.message].filter(Boolean).join(": "))));
}

function picture(job) {
  if (!job.thumbnail) return el("span", { class: "none" }, MEDIA[job.media] ?? (job.output_count ? "File" : "No output"));
  return thumbnail({ member: job.member, id: job.id, at: job.ended });
}

/** A thumbnail; where the picture cannot be had, words. */
export function thumbnail(query) {
  const source = `api/thumbnail?${new URLSearchParams(query)}`;
  return el("img", { src: source, alt: "", loading: "lazy", decoding: "async",
    error: (event) => event.target.replaceWith(el("span", { class: "none" }, "Not available")) });
}

/** What chooses a member of those there are; `filled` is awaited until `chosen` is. */
export function memberFilter(chosen, change) {
  const select = el("select", { name: "member", "aria-label": "Member", change }, options([["", "All members"]]));
  const filled = get("api/members").catch(() => ({ members: [] })).then(({ members }) => {
    select.append(...options(members.map((one) => [one.name, one.name])));
    select.value = chosen;
  });
  return { select, filled };
}

const PAGE = 24;

/** The page of all ended jobs: filtered, searched, and loaded page by page. */
export function view(context, [], query) {
  const grid = gallery();
  const search = el("input", { type: "search", name: "q", value: query.get("q") ?? "", maxlength: 100,
    placeholder: "Search by workflow, model, id or member", "aria-label": "Search jobs", autocomplete: "off" });
  const status = el("div", { class: "segments", role: "group", "aria-label": "State" },
    ["", "completed", "failed", "cancelled"].map((one) =>
      el("button", { type: "button", "data-state": one, "aria-pressed": String((query.get("status") ?? "") === one),
        click: () => choose({ status: one }) }, one ? STATES[one] : "All")));
  const more = el("button", { type: "button", class: "more", hidden: true, click: () => load(true) }, "Show more");
  const none = el("p", { class: "empty", hidden: true });
  const found = el("p", { class: "unseen", role: "status" });
  const filters = el("form", { class: "filters", role: "search", submit: (event) => event.preventDefault() }, search, status);
  let chosen = Object.fromEntries(["q", "status", "member"].map((one) => [one, query.get(one) ?? ""]));
  let jobs = [], next = null, history = null, timer = null, asked = 0, pages = 1;
  if (context.isAdmin() && context.state.viewer.gateway) {
    filters.append(memberFilter(chosen.member, (event) => choose({ member: event.target.value })).select);
  }

  search.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(() => choose({ q: search.value.trim() }), 250);
  });

  function choose(changes) {
    chosen = { ...chosen, ...changes };
    for (const button of status.children) {
      button.setAttribute("aria-pressed", String(button.dataset.state === chosen.status));
    }
    const words = new URLSearchParams(Object.entries(chosen).filter(([, value]) => value)).toString();
    window.history.replaceState(null, "", `#/jobs${words ? `?${words}` : ""}`);
    pages = 1;
    load(false);
  }

  /** Load the next page, or the pages that are shown again. */
  async function load(further) {
    const mine = ++asked;
    const limit = further ? PAGE : Math.min(100, PAGE * pages);
    try {
      const answer = await get("api/jobs", { ...chosen, limit, before: further ? next : null });
      if (mine !== asked) return;
      pages = further ? pages + 1 : pages;
      jobs = further ? [...jobs, ...answer.jobs] : answer.jobs;
      next = answer.next;
      draw();
    } catch (error) {
      if (mine === asked) context.problem(error.message);
    }
  }

  function draw() {
    grid.draw(jobs, { member: context.state.viewer.gateway, now: context.now });
    const filtered = Object.values(chosen).some(Boolean);
    more.hidden = next == null;
    none.hidden = jobs.length > 0;
    text(none, filtered ? "No jobs match" : "No jobs yet. Jobs that have ended appear here.");
    text(found, `${jobs.length}${next == null ? "" : " or more"} jobs found`);
  }

  return {
    title: "Jobs",
    root: el("div", { class: "page" }, el("h1", {}, "Jobs"), filters, found, none, grid.root, more),
    update() {
      if (history !== context.state.history && jobs.length <= 100) {
        history = context.state.history;
        load(false);
      } else if (jobs.length) draw();
    },
    leave: () => clearTimeout(timer),
  };
}
