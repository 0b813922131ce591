// One line at the top: errors (announced at once), and notices.
import { byId, el, fill } from "./dom.js";

let timer = 0;

function show(box, text, actions) {
  const buttons = actions.map(([label, run]) =>
    el("button", { type: "button", onclick: () => (clear(), run()) }, label),
  );
  const close = el("button", { type: "button", class: "plain", "aria-label": "Close message", onclick: clear }, "×");
  fill(box, el("span", {}, text), ...buttons, close);
  box.hidden = false;
}

/** Show an error until it is closed or something succeeds. actions: [text, function] pairs, as buttons. */
export function showError(error, actions = []) {
  if (error?.name === "AbortError") return;
  clear();
  show(byId("error"), error instanceof Error ? error.message : String(error), actions);
}

/** Show a notice for some seconds. */
export function showNotice(text) {
  clear();
  show(byId("notice"), text, []);
  timer = setTimeout(clear, 6000);
}

/** Announce a text to screen readers only. */
export function announce(text) {
  byId("announce").textContent = text;
}

export function clear() {
  clearTimeout(timer);
  for (const id of ["error", "notice"]) byId(id).hidden = true;
}
