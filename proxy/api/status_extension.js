// Shows in ComfyUI's web interface why no jobs are accepted and what else is wrong, and leads to the
// dashboard. The frontend loads it as it loads the script of a node pack.

import { app } from "../../scripts/app.js";
import { api } from "../../scripts/api.js";

const NAME = "comfy-cloud-proxy";
/** Milliseconds between two looks at the server's state, and while something is wrong. */
const INTERVAL = 10_000, WATCH_INTERVAL = 500;

let shown = null, drawn = 0, badged = { topbarBadges: [] };

const address = (path) => api.fileURL(path);

function open(path) {
  window.open(address(path), "_blank", "noopener");
}

async function signOut() {
  await fetch(address("/proxy/sign-out"), { method: "POST" });
  location.reload();
}

function badges(state) {
  const found = [];
  if (state.simulated) {
    found.push({ text: "Simulator", variant: "warning", tooltip: "Jobs run on a simulated Comfy Cloud, with simulated results." });
  }
  if (state.trouble) {
    found.push({ text: "Jobs", label: "Not ready", variant: "error", tooltip: state.trouble });
  }
  if (state.problem) {
    found.push({ text: "Proxy", label: "Problem", variant: "warning", tooltip: state.problem });
  }
  return found;
}

/** Replace the badges. The frontend reads them when an extension is registered, and only then. */
function drawBadges(found) {
  badged.topbarBadges.length = 0;
  badged = { name: `${NAME}.badges-${++drawn}`, topbarBadges: found };
  app.registerExtension(badged);
}

/** Draw the state, and say in one toast that trouble begins and in one that it ends: its sentence
 * may change in between. */
function draw(state) {
  const first = shown == null, { trouble = null, problem = null } = shown ?? {};
  shown = state;
  if (first || state.trouble !== trouble || state.problem !== problem) drawBadges(badges(state));
  const { toast } = app.extensionManager;
  if (state.trouble && !trouble) {
    toast.add({ severity: "error", summary: "No jobs are accepted", detail: state.trouble, life: 30_000 });
  } else if (trouble && !state.trouble) {
    toast.add({ severity: "success", summary: "Jobs are accepted again", life: 5_000 });
  }
  if (state.problem && !problem) {
    toast.add({ severity: "warn", summary: "Jobs run, but something is wrong", detail: state.problem, life: 30_000 });
  }
}

async function look() {
  try {
    const answer = await fetch(address("/proxy/api/interface"));
    if (answer.ok) draw(await answer.json());
  } catch {
    // The frontend itself says that the server cannot be reached.
  }
}

/** Look at the state for as long as the page is open, more often while something is wrong. */
async function watch() {
  await new Promise((resume) => setTimeout(resume, shown?.trouble || shown?.problem ? WATCH_INTERVAL : INTERVAL));
  await look();
  watch();
}

/** Milliseconds between two looks whether the frontend has opened a workflow, and how many. */
const OPENED_INTERVAL = 100, MAX_LOOKS = 300;

/** Open the workflow of the job that the address names, as the dashboard links to it. */
async function openJob() {
  const query = new URLSearchParams(location.search);
  const id = query.get("job");
  if (!id) return;
  const named = new URLSearchParams({ id, member: query.get("member") ?? "" });
  const answer = await fetch(address(`/proxy/api/workflow?${named}`));
  const sent = await answer.json().catch(() => ({}));
  // The frontend opens the workflow of the last visit first, and would open it over this one.
  for (let looks = 0; !app.extensionManager.workflow?.activeWorkflow && looks < MAX_LOOKS; looks++) {
    await new Promise((resume) => setTimeout(resume, OPENED_INTERVAL));
  }
  const name = `job-${id.slice(0, 8)}`;
  if (!answer.ok) {
    const detail = sent.error?.message ?? `The server answered ${answer.status}.`;
    app.extensionManager.toast.add({ severity: "error", summary: "The workflow of the job cannot be opened", detail });
  } else if (sent.workflow) await app.loadGraphData(sent.workflow, true, true, name);
  else await app.loadApiJson(sent.prompt, name);
  query.delete("job");
  query.delete("member");
  const rest = query.toString();
  history.replaceState(history.state, "", `${location.pathname}${rest ? `?${rest}` : ""}${location.hash}`);
}

/** The account's key pays for partner nodes, so nobody has to sign in at comfy.org. */
function hideSignIn() {
  const style = document.createElement("style");
  style.textContent = '[data-testid="login-button"] { display: none !important; }';
  document.head.append(style);
}

const DASHBOARD = { id: `${NAME}.dashboard`, label: "Dashboard", icon: "pi pi-chart-bar", function: () => open("/proxy/") };
const SIGN_OUT = { id: `${NAME}.sign-out`, label: "Sign out", icon: "pi pi-sign-out", function: signOut };

app.registerExtension({
  name: NAME,
  async setup() {
    await look();
    if (shown?.pays_partner_nodes) hideSignIn();
    const commands = shown?.signed_in ? [DASHBOARD, SIGN_OUT] : [DASHBOARD];
    const menu = { path: ["Comfy Cloud"], commands: commands.map(({ id }) => id) };
    app.registerExtension({ name: `${NAME}.menu`, commands, menuCommands: [menu] });
    watch(); // not awaited: it goes on
    openJob(); // not awaited: the frontend opens its own workflow after this setup
  },
});
