// The page: which view is open, and the state that all views draw.

import { $, attribute, el, keyed, problem, text } from "./dom.js";
import { hash, plural } from "./format.js";
import { follow } from "./server.js";
import * as accounts from "./accounts.js";
import * as audit from "./audit.js";
import * as job from "./job.js";
import * as jobs from "./jobs.js";
import * as members from "./members.js";
import * as overview from "./overview.js";
import * as usage from "./usage.js";
import * as webhooks from "./webhooks.js";

const VIEWS = { "": overview.view, jobs: jobs.view, job: job.view, accounts: accounts.view, members: members.list, member: members.view, usage: usage.view, audit: audit.view, webhooks: webhooks.view };
const FOR_ADMINS = new Set(["accounts", "members", "audit"]);

const COMFY = "https://docs.comfy.org/development/cloud/overview";

let open = null, skew = 0;

/** What a view knows: the last state, the time of the server, and who looks. */
const context = {
  state: null,
  get now() { return Date.now() + skew; },
  isAdmin: () => context.state.viewer.role === "admin",
  problem,
  /** Let the open view read again what it shows of members. */
  membersChanged: () => open?.membersChanged?.(),
};

/** Open the view of the address. */
function route(focus = true) {
  const [where, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [name, ...parts] = where.split("/").map(decoded);
  const known = VIEWS[name] && (context.isAdmin() || !FOR_ADMINS.has(name));
  open?.leave?.();
  open = (known ? VIEWS[name] : overview.view)(context, parts, new URLSearchParams(query));
  problem("");
  $("#view").replaceChildren(open.root);
  document.title = `${open.title} · comfy-cloud-proxy`;
  drawFrame();
  open.update();
  if (focus) {
    scrollTo(0, 0);
    $("#view").focus({ preventScroll: true });
  }
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The header and the footer: where one can go, who looks, and what kind of server it is. */
function drawFrame() {
  const { viewer, server } = context.state;
  const links = [["#/", "Overview"], ["#/jobs", "Jobs"]];
  links.push(context.isAdmin() ? ["#/members", "Members"] : [hash("member", viewer.name), "Your access"]);
  links.push(["#/usage", "Usage"], ["#/webhooks", "Webhooks"]);
  if (context.isAdmin()) links.push(["#/accounts", "Accounts"]);
  if (server.audit) links.push(["#/audit", "Audit"]);
  const at = (location.hash || "#/").split("?")[0];
  keyed($("#nav"), links, ([to]) => to, ([to, label]) => el("a", { href: to }, label), (link, [to]) => {
    const inside = at === to || (to === "#/jobs" && at.startsWith("#/job/")) || (to === "#/members" && at.startsWith("#/member/"));
    attribute(link, "aria-current", inside ? "page" : null);
  });
  text($("#viewer"), viewer.gateway ? viewer.name : "");
  attribute($("#viewer"), "href", viewer.gateway ? hash("member", viewer.name) : null);
  text($("#trouble"), context.state.trouble ?? "");
  $("#trouble").hidden = !context.state.trouble;
  const off = context.state.webhooks_disabled;
  $("#webhooks-off").hidden = !off;
  text($("#webhooks-off a"), off ? `${plural(off, "webhook is", "webhooks are")} disabled` : "");
  $("#sign-out").hidden = !viewer.signed_in;
  $("#simulated").hidden = !server.simulated;
  const elsewhere = [];
  if (server.interface) elsewhere.push(["../", "Web interface"]);
  elsewhere.push(server.documentation ? [server.documentation, "Documentation"] : [COMFY, "Comfy Cloud documentation"]);
  if (server.metrics) elsewhere.push(["../metrics", "Metrics"]);
  keyed($("#elsewhere"), elsewhere, ([to]) => to, ([to, label]) => el("li", {}, el("a", { href: to }, label)));
  text($("#version"), `comfy-cloud-proxy ${server.version}`);
}

follow((state) => {
  const first = context.state == null;
  const other = !first && state.viewer.role !== context.state.viewer.role;
  if (!first && state.server.version !== context.state.server.version) location.reload();
  context.state = state;
  skew = state.time - Date.now();
  if (first || other) route(false);
  else {
    drawFrame();
    open.update();
  }
}, context.membersChanged);
addEventListener("hashchange", () => {
  for (const dialog of document.querySelectorAll("dialog[open]")) dialog.close();
  if (context.state) route();
});
setInterval(() => open?.update(), 1000);
$("#problem [data-act=dismiss]").addEventListener("click", () => problem(""));

const theme = localStorage.getItem("theme");
if (theme) document.documentElement.dataset.theme = theme;
$("#theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme
    ? root.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("theme", root.dataset.theme);
});
