// Elements, lists that keep their elements, and the two dialogs that every view may open.

export const $ = (selector, root = document) => root.querySelector(selector);

/** An element. Strings among the children become text, never markup; `null` is left out.
 * Attributes whose value is a function are listeners, `false` and `null` leave an attribute out. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value != null && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child != null && child !== false));
  return made;
}

/** Change an element's text only where it differs, so that selections and screen readers rest. */
export function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

/** Change an attribute only where it differs; `null` removes it. */
export function attribute(element, name, value) {
  if (value == null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Let the children of `parent` be one element an item, in order. Those of known keys stay where
 * they are, with the focus that they have; `update` brings an element up to date. */
export function keyed(parent, items, key, make, update = () => {}) {
  const wanted = new Map(items.map((item) => [key(item), item]));
  const found = new Map();
  for (const child of [...parent.children]) {
    if (wanted.has(child.dataset.key)) found.set(child.dataset.key, child);
    else child.remove(); // before the others are placed: to move one would take the focus from it
  }
  [...wanted].forEach(([id, item], index) => {
    let child = found.get(id);
    if (!child) {
      child = make(item);
      child.dataset.key = id;
    }
    update(child, item);
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
}

/** The options of a select, from pairs of value and label. */
export const options = (pairs) => pairs.map(([value, label]) => el("option", { value }, label));

/** An input of a form with its label. */
export const field = (label, input) => el("label", {}, el("span", {}, label), input);

/** A card with a heading, and what an empty one says. `body` is where the content goes. */
export function card(title, { empty = "", link = null, id = null } = {}) {
  const body = el("div", { class: "body" });
  const none = el("p", { class: "empty", hidden: true }, empty);
  const heading = el("h2", {}, title);
  const head = el("header", {}, heading, link && el("a", { href: link[1] }, link[0]));
  const root = el("section", { class: "card", id }, head, none, body);
  return {
    root, body, heading,
    /** Say that there is nothing, in these words if they change, or show what there is. */
    isEmpty(yes, words = null) {
      if (words != null) text(none, words);
      none.hidden = !yes;
      body.hidden = yes;
    },
  };
}

/** A bar of how much of something is done or used, from 0 to 1. */
export function bar(label) {
  const inner = el("span");
  const root = el("span", { class: "bar", role: "progressbar", "aria-label": label,
    "aria-valuemin": 0, "aria-valuemax": 100 }, inner);
  return {
    root,
    set(share) {
      const percent = Math.round(100 * Math.min(1, Math.max(0, share || 0)));
      inner.style.width = `${percent}%`;
      attribute(root, "aria-valuenow", percent);
    },
  };
}

/** Ask; whether the answer was yes. */
export function ask(question, yes) {
  const dialog = $("#ask");
  text($("#ask-text"), question);
  text($("[data-of=yes]", dialog), yes);
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((answer) =>
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true }));
}

/** Show a problem above everything until it is dismissed or the viewer does something else. */
export function problem(message) {
  $("#problem").hidden = !message;
  text($("#problem [data-of=text]"), message);
}

/** A place in a form for why it was refused; an empty message hides it. */
export function notice() {
  const root = el("p", { class: "problem", role: "alert", hidden: true });
  return {
    root,
    say(message) {
      root.hidden = !message;
      text(root, message);
    },
  };
}

/** Put an element's text on the clipboard; false where the browser lets nobody. */
export async function copy(element) {
  try {
    await navigator.clipboard.writeText(element.textContent); // exists on https and loopback alone
    return true;
  } catch {
    getSelection().selectAllChildren(element);
    return document.execCommand("copy");
  }
}
