// The dashboard: draws each state that the server sends, row by row, so that the focus stays.

const $ = (selector, root = document) => root.querySelector(selector);
let now = Date.now();
let state = null;
let history = "", failures = [];

// --- drawing -----------------------------------------------------------------------------------

/** An element with properties and children; strings become text, never markup. */
function el(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children.filter((child) => child != null));
  return made;
}

/** Let the rows of a section's table be `items`: kept by key, changed where they differ, in order. */
function rows(section, items, key, cells) {
  const body = $("tbody", section);
  const heads = $("thead", body.parentElement).rows[0].cells;
  const before = new Map([...body.rows].map((row) => [row.dataset.key, row]));
  items.forEach((item, index) => {
    const id = key(item);
    const row = before.get(id) ?? el("tr");
    before.delete(id);
    row.dataset.key = id;
    cells(item).forEach((cell, column) => fill(row, column, cell, heads[column]));
    if (body.rows[index] !== row) body.insertBefore(row, body.rows[index] ?? null);
  });
  before.forEach((row) => row.remove());
  section.classList.toggle("void", items.length === 0);
}

/** A cell is `{text, title, css}`, `{bar, label}` or `{make}`, which is called once for a row. */
function fill(row, column, cell, head) {
  const td = row.cells[column] ?? row.insertCell();
  if (cell?.make === undefined) td.dataset.label = head.textContent;
  if (cell?.make) {
    if (cell.key !== td.dataset.key || !td.firstChild) {
      td.dataset.key = cell.key;
      td.className = "act";
      td.replaceChildren(...[cell.make()].flat());
    }
  } else if (cell?.bar !== undefined) {
    if (!td.firstChild) {
      td.className = "wide";
      const track = el("span", {}, el("span"));
      track.setAttribute("aria-hidden", "true");
      td.append(el("div", { className: "bar" }, track, el("span")));
    }
    const [track, label] = td.firstChild.children;
    track.firstChild.style.width = `${Math.round(1000 * Math.min(1, Math.max(0, cell.bar))) / 10}%`;
    set(label, cell.label);
  } else {
    const { text = "", title = "", css = "" } = typeof cell === "object" && cell ? cell : { text: cell ?? "" };
    set(td, String(text));
    if (td.title !== title) td.title = title;
    if (td.className !== css) td.className = css;
  }
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// --- words -------------------------------------------------------------------------------------

function duration(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h ${minutes % 60} min` : `${Math.floor(hours / 24)} days`;
}

const clock = (ms) => (ms ? new Date(ms).toLocaleString() : "");
const short = (id) => ({ text: id.slice(0, 8), title: id });
/** Two members' jobs may have the same id: clients choose them. */
const keyOf = (job) => `${job.member}/${job.id}`;
const plain = (value) => (value == null ? "" : String(value));

function bytes(count) {
  const units = ["bytes", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, count)) / 3));
  return `${+(count / 1000 ** power).toFixed(1)} ${units[power]}`;
}

function limits(member) {
  const names = {
    max_queued: "waiting", max_running: "running", jobs_per_day: "jobs a day",
    upload_bytes_per_day: "bytes uploaded a day",
    stored_bytes: "bytes stored", requests_per_second: "requests a second",
  };
  const said = Object.entries(names)
    .filter(([name]) => member.limits?.[name] != null)
    .map(([name, words]) => words.startsWith("bytes")
      ? `${bytes(member.limits[name])} ${words.slice("bytes ".length)}`
      : `${member.limits[name]} ${words}`);
  if (member.limits?.denied_classes?.length) said.push(`not ${member.limits.denied_classes.join(", ")}`);
  if (member.limits?.deny_partner_nodes) said.push("no partner nodes");
  return said.join(" · ") || "none";
}

// --- the state ---------------------------------------------------------------------------------

function draw() {
  if (!state) return;
  const { viewer, running, waiting, accounts, usage } = state;
  set($("#viewer"), viewer.gateway ? `${viewer.name} (${viewer.role})` : "");
  $("#sign-out").hidden = !viewer.signed_in;
  $("#alone").hidden = viewer.gateway;
  const slots = accounts.reduce((sum, account) => sum + account.slots, 0);
  const used = accounts.reduce((sum, account) => sum + account.used, 0);
  const sum = (field) => usage.reduce((total, row) => total + row[field], 0);
  const shown = {
    running: running.length, waiting: waiting.length, slots: accounts.length ? `${used} / ${slots}` : "–",
    jobs: sum("jobs"), failed: sum("failed"),
  };
  for (const [name, value] of Object.entries(shown)) set($(`#summary [data-of=${name}]`), String(value));

  rows($("#running"), running, keyOf, (job) => [
    job.member, short(job.id),
    { bar: job.progress, label: `${Math.round(100 * job.progress)} %` },
    job.reason ? { text: job.reason, css: "text bad" }
      : job.started ? plain(job.node) : { text: "about to start", css: "quiet" },
    duration(now - (job.started ?? job.created)), job.account, cancelButton(job),
  ]);
  rows($("#waiting"), waiting, keyOf, (job) => [
    job.turn, job.member, short(job.id), plain(job.number), { text: job.reason, css: "text" },
    duration(now - job.created), cancelButton(job),
  ]);
  const most = Math.max(1, ...usage.map((row) => row.seconds));
  rows($("#usage"), usage, (row) => row.member, (row) => [
    row.member, { bar: row.seconds / most, label: duration(1000 * row.seconds) },
    row.jobs, { text: row.failed, css: row.failed ? "bad" : "" }, row.outputs,
  ]);
  $("#accounts").hidden = accounts.length === 0;
  rows($("#accounts"), accounts, (account) => account.name, (account) => [
    account.name,
    { bar: account.slots ? account.used / account.slots : 0, label: `${account.used} / ${account.slots}` },
    account.reason
      ? { text: account.until ? `${account.reason} (again in ${duration(account.until - now)})` : account.reason, css: "text bad" }
      : { text: "good", css: "good" },
    account.events ? { text: "connected", css: "good" } : { text: "not connected", css: "quiet" },
  ]);
  rows($("#failures"), failures, keyOf, (job) => [
    { text: `${duration(now - job.ended)} ago`, title: clock(job.ended) }, job.member, short(job.id),
    { text: job.error?.class, css: "text" }, { text: job.error?.message, css: "text" },
  ]);
}

async function drawFailures() {
  history = state.history;
  failures = (await call("GET", "api/jobs?status=failed&limit=20").catch(() => ({ jobs: [] }))).jobs;
  draw();
}

function cancelButton(job) {
  return {
    key: "cancel",
    make: () => {
      const button = el("button", { type: "button" }, "Cancel");
      button.setAttribute("aria-label", `Cancel job ${job.id.slice(0, 8)} of ${job.member}`);
      button.addEventListener("click", async () => {
        if (await ask(`Cancel the job ${job.id.slice(0, 8)} of ${job.member}?`, "Cancel it")) {
          await act("POST", "api/jobs/cancel", { member: job.member, id: job.id });
        }
      });
      return button;
    },
  };
}

// --- members and tokens ------------------------------------------------------------------------

async function drawMembers() {
  if (state?.viewer.role !== "admin" || !state.viewer.gateway) return;
  let members, tokens;
  try {
    [members, tokens] = await Promise.all([call("GET", "api/members"), call("GET", "api/tokens")]);
  } catch {
    return; // drawn again with the next change, or when the connection is back
  }
  $("#members").hidden = false;
  rows($("#members"), members.members, (member) => member.name, (member) => [
    member.name, member.role, member.weight, { text: limits(member), css: "text" },
    member.disabled ? { text: "disabled", css: "bad" } : { text: "active", css: "good" },
    { key: String(member.disabled), make: () => memberButtons(member) },
  ]);
  rows($("#tokens"), tokens.tokens, (token) => token.id, (token) => [
    token.shown, token.member, { text: plain(token.note), css: "text" },
    token.last_used
      ? { text: `${duration(now - token.last_used.at)} ago from ${token.last_used.address}`, title: clock(token.last_used.at) }
      : { text: "never", css: "quiet" },
    token.expires ? { text: clock(token.expires), css: token.expires < now ? "bad" : "" } : { text: "never", css: "quiet" },
    { key: token.id, make: () => revokeButton(token) },
  ]);
}

function memberButtons(member) {
  const token = el("button", { type: "button" }, "New token");
  token.addEventListener("click", async () => {
    const made = await act("POST", "api/tokens", { member: member.name });
    if (made) showToken(member.name, made.token);
    await drawMembers();
  });
  const word = member.disabled ? "Enable" : "Disable";
  const toggle = el("button", { type: "button" }, word);
  toggle.setAttribute("aria-label", `${word} ${member.name}`);
  toggle.addEventListener("click", async () => {
    if (member.disabled || (await ask(`Disable ${member.name}? Open connections are cut.`, "Disable"))) {
      await act("PATCH", `api/members/${encodeURIComponent(member.name)}`, { disabled: !member.disabled });
      await drawMembers();
    }
  });
  token.setAttribute("aria-label", `New token for ${member.name}`);
  return [token, " ", toggle];
}

function revokeButton(token) {
  const button = el("button", { type: "button" }, "Revoke");
  button.setAttribute("aria-label", `Revoke ${token.shown} of ${token.member}`);
  button.addEventListener("click", async () => {
    if (await ask(`Revoke ${token.shown} of ${token.member}? It stops working within a second.`, "Revoke")) {
      await act("DELETE", `api/tokens/${encodeURIComponent(token.id)}`);
      await drawMembers();
    }
  });
  return button;
}

function showToken(member, token) {
  const dialog = $("#token-made");
  set($("[data-of=member]", dialog), member);
  set($("[data-of=token]", dialog), token);
  dialog.showModal();
}
$("#token-made").addEventListener("close", (event) => {
  for (const name of ["token", "copied"]) set($(`[data-of=${name}]`, event.target), "");
});
$("#token-made [data-act=copy]").addEventListener("click", async () => {
  const copied = await copy($("#token-made [data-of=token]"));
  set($("#token-made [data-of=copied]"), copied ? "Copied." : "Copy the selected text yourself.");
});

$("#new-member").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const said = Object.fromEntries(new FormData(form));
  const number = (name) => (said[name] === "" ? null : Number(said[name]));
  const stored = said.stored_mb === "" ? {} : { stored_bytes: 1e6 * Number(said.stored_mb) };
  const member = {
    name: said.name.trim(), role: said.role,
    limits: {
      max_queued: number("max_queued"), max_running: number("max_running"),
      jobs_per_day: number("jobs_per_day"), ...stored,
    },
  };
  const tell = (text) => {
    $(".problem", form).hidden = !text;
    set($(".problem", form), text);
  };
  if (await act("POST", "api/members", member, tell)) {
    form.reset();
    await drawMembers();
  }
});

// --- speaking with the server ------------------------------------------------------------------

/** Ask the API; the parsed answer. Throws an Error that says what is wrong. */
async function call(method, path, body) {
  const answer = await fetch(path, {
    method,
    headers: body === undefined ? {} : { "Content-Type": "application/json" },
    body: body === undefined ? undefined : JSON.stringify(body),
  });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(said.error?.message ?? said.error ?? `The server answered ${answer.status}.`);
  return said;
}

/** Do what the viewer asked for; the answer, or null after a problem that `tell` has shown. */
async function act(method, path, body, tell = problem) {
  tell("");
  try {
    return await call(method, path, body);
  } catch (error) {
    tell(error.message);
    return null;
  }
}

/** Show a problem above everything until it is dismissed or the viewer does something else. */
function problem(text) {
  $("#problem").hidden = !text;
  set($("#problem [data-of=text]"), text);
}
$("#problem [data-act=dismiss]").addEventListener("click", () => problem(""));

function ask(text, yes) {
  const dialog = $("#ask");
  set($("#ask-text"), text);
  set($("[data-of=yes]", dialog), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((answer) =>
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true }));
}

/** Put an element's text on the clipboard; false where the browser lets nobody. */
async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent); // exists on https and loopback alone
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}

// --- live updates ------------------------------------------------------------------------------

/** Milliseconds: the first and the longest wait before another try, and the silence of a connection
 * that is lost. The server sends something every 15 s. */
const FIRST_WAIT = 1000, LONGEST_WAIT = 15_000, SILENCE = 45_000;
let source = null, skew = 0, wait = FIRST_WAIT, timer = null;

function link(words, live = false) {
  $("#link").classList.toggle("live", live);
  set($("#link"), words);
}

function connect() {
  source?.close();
  source = new EventSource("api/events");
  source.addEventListener("open", () => {
    wait = FIRST_WAIT;
    link("live", true);
    heard();
  });
  source.addEventListener("error", lost);
  source.addEventListener("state", (event) => {
    heard();
    const first = state === null;
    state = JSON.parse(event.data);
    skew = state.time - Date.now();
    now = state.time;
    draw();
    if (first) drawMembers();
    if (state.history !== history) drawFailures();
  });
  source.addEventListener("members", drawMembers);
}

function heard() {
  clearTimeout(timer);
  timer = setTimeout(lost, SILENCE);
}

/** A browser gives up after an answer such as the 502 of a reverse proxy: try again ourselves. */
function lost() {
  source.close();
  clearTimeout(timer);
  link("connection lost, trying again…");
  timer = setTimeout(retry, wait);
  wait = Math.min(2 * wait, LONGEST_WAIT);
}

/** Connect again if the server is there. An EventSource does not tell why it ended. */
async function retry() {
  clearTimeout(timer);
  try {
    const answer = await fetch("api/state", { cache: "no-store", signal: AbortSignal.timeout(LONGEST_WAIT) });
    if (answer.status === 401) return signedOut();
    if (answer.ok) {
      connect();
      return drawMembers();
    }
  } catch {
    // still away
  }
  lost();
}

function signedOut() {
  link("signed out");
  $("#signed-out").hidden = false;
}

for (const happened of ["online", "visibilitychange"]) {
  (happened === "online" ? window : document).addEventListener(happened, () => {
    if (source.readyState === EventSource.CLOSED && $("#signed-out").hidden && !document.hidden) retry();
  });
}
connect();
setInterval(() => {
  now = Date.now() + skew;
  draw();
}, 1000);

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
