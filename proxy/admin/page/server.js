// Speaks with the server: requests, and the stream of states, which is opened again when it ends.

import { $, problem, text } from "./dom.js";

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

/** Ask with a query, from which empty values are left out. */
export function get(path, query = {}) {
  const given = Object.entries(query).filter(([, value]) => value != null && value !== "");
  const words = new URLSearchParams(given).toString();
  return call("GET", words ? `${path}?${words}` : path);
}

/** Do what the viewer asked for; the answer, or null after a problem that `tell` has shown. */
export async function act(method, path, body, tell = problem) {
  tell("");
  try {
    return await call(method, path, body);
  } catch (error) {
    tell(error.message);
    return null;
  }
}

/** Milliseconds: the first and the longest wait before another try, and the silence of a connection
 * that is lost. The server sends something every 15 s. */
const FIRST_WAIT = 1000, LONGEST_WAIT = 15_000, SILENCE = 45_000;
let source = null, wait = FIRST_WAIT, timer = null, heard = () => {}, membersChanged = () => {};

/** Follow the state: `onState` gets each one, `onMembers` is called when members or tokens are
 * others, and whenever they may be. */
export function follow(onState, onMembers) {
  heard = onState;
  membersChanged = onMembers;
  for (const [target, happened] of [[window, "online"], [document, "visibilitychange"]]) {
    target.addEventListener(happened, () => {
      if (source.readyState === EventSource.CLOSED && $("#signed-out").hidden && !document.hidden) retry();
    });
  }
  connect();
}

function link(words, live = false) {
  $("#link").classList.toggle("live", live);
  text($("#link"), words);
}

function connect() {
  source?.close();
  source = new EventSource("api/events");
  source.addEventListener("open", () => {
    wait = FIRST_WAIT;
    link("Live", true);
    listen();
  });
  source.addEventListener("error", lost);
  source.addEventListener("state", (event) => {
    listen();
    heard(JSON.parse(event.data));
  });
  source.addEventListener("members", () => membersChanged());
}

function listen() {
  clearTimeout(timer);
  timer = setTimeout(lost, SILENCE);
}

/** A browser gives up after an answer such as the 502 of a reverse proxy: try again ourselves. */
function lost() {
  source.close();
  clearTimeout(timer);
  link("Connection lost, retrying…");
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
      return membersChanged();
    }
  } catch {
    // still away
  }
  lost();
}

function signedOut() {
  link("Signed out");
  $("#signed-out").hidden = false;
}
