// Lines to copy that connect well-known programs, for the address of this page.

import { card, copy, el, text } from "./dom.js";

/** Where the server is for clients, without a slash at the end. */
const home = () => new URL("..", location.href).href.replace(/\/$/, "");

/** Name, what to do, and the line of each program. */
function programs(token) {
  const url = home(), path = `${url}/t/${token}`;
  const { host, protocol, pathname } = new URL(url);
  const bare = `${host}${pathname.replace(/\/$/, "")}/t/${token}`;
  const found = [
    ["Krita AI Diffusion", "Configure, Connection, Custom Server: the Server URL", path],
    ["Open WebUI", "Its environment", `COMFYUI_BASE_URL=${url}\nCOMFYUI_API_KEY=${token}`],
    ["SillyTavern", "Image Generation, ComfyUI: the ComfyUI URL", path],
    ["SwarmUI", "A backend “ComfyUI API By URL”: its address", path],
    ["n8n", "The API URL of the credential", `${url}\nAPI Key: ${token}`],
    ["Python and other scripts", protocol === "https:" ? "Use https and wss in the script" : "The server address", bare],
    ["curl", "A first request", `curl -H "Authorization: Bearer ${token}" ${url}/queue`],
    ["This command line", "From another machine", `COMFY_TOKEN=${token} comfy-cloud-proxy run workflow.json --server ${url}`],
  ];
  if (protocol === "https:" || /^(127\.|localhost)/.test(host)) {
    found.push(["comfy-cli", "Its environment", `export COMFY_CLOUD_BASE_URL=${url}\nexport COMFY_CLOUD_API_KEY=${token}`]);
  }
  return found;
}

/** A line that may be broken behind `=`, where a narrow screen has no room for it. */
const breakable = (line) => line.split(/(?<==)/).flatMap((part, index) => (index ? [el("wbr"), part] : [part]));

/** The card with all programs; `token` stands in the lines until another is given to `show`. */
export function connect(token) {
  const box = card("Connect programs", { id: "connect" });
  const list = el("ul", { class: "connect" }), hint = el("p", { class: "quiet" });
  box.body.append(hint, list);

  function show(shown, words) {
    text(hint, words);
    list.replaceChildren(...programs(shown).map(([name, what, line]) => {
      const code = el("pre", { tabindex: 0, "aria-label": `Line for ${name}` }, breakable(line)), said = el("span", { class: "good", role: "status" });
      const button = el("button", { type: "button", class: "quiet", "aria-label": `Copy the line for ${name}`, click: async () => {
        text(said, (await copy(code)) ? "Copied" : "Selected");
      } }, "Copy");
      return el("li", {}, el("div", { class: "names" }, el("strong", {}, name), el("span", { class: "quiet" }, what)), code, el("span", { class: "acts" }, said, button));
    }));
  }

  show(token, "Replace TOKEN with a token of this member. A new token is in the lines while this page is open.");
  return { root: box.root, show };
}
