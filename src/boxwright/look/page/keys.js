// Keyboard shortcuts: one list for the key handler and the help.
import { byId, el, fill } from "./dom.js";

const lists = new Map(); // name of a view -> shortcuts; "" for all views

/**
 * Set the shortcuts of a view: rows of [keys, what they do, function]. Keys are `event.key`, with "Ctrl+" or "Shift+"
 * before it where that is needed. The function gets the event and the key's place in the list; if it returns false, the
 * key is left to the browser.
 */
export function setKeys(view, rows) {
  lists.set(view, rows);
}

function name(event) {
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const shift = event.shiftKey && event.key.length > 1 ? "Shift+" : "";
  return `${event.ctrlKey || event.metaKey ? "Ctrl+" : ""}${event.altKey ? "Alt+" : ""}${shift}${key}`;
}

function isTyping(event) {
  const element = event.target;
  if (event.key === "Escape" || !(element instanceof Element)) return false;
  if (element.matches("input[type=checkbox], input[type=radio]")) return event.key === " ";
  if (element.matches("input, select, textarea")) return !(event.ctrlKey && event.key.toLowerCase() === "s");
  return element.matches("button, summary, a") && (event.key === "Enter" || event.key === " ");
}

export function listen(current) {
  addEventListener("keydown", (event) => {
    if (event.defaultPrevented || isTyping(event) || byId("shortcuts").open) return;
    const pressed = name(event);
    for (const view of [current(), ""]) {
      for (const [keys, , run] of lists.get(view) ?? []) {
        const place = keys.indexOf(pressed);
        if (place >= 0 && run(event, place) !== false) {
          event.preventDefault();
          return;
        }
      }
    }
  });
}

const SHOWN = {
  ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Escape: "Esc", Delete: "Del", " ": "Space",
};

function shown(key) {
  const parts = key === "+" ? ["+"] : key.split(/\+(?=.)/);
  return el("kbd", {}, parts.map((part) => SHOWN[part] ?? (part.length === 1 ? part.toUpperCase() : part)).join("+"));
}

/** Keys for the help: only the first of equivalent keys, and arrows with the same modifier combined. */
function grouped(keys) {
  const arrows = keys.every((key) => key.includes("Arrow")) && keys[0].includes("+");
  if (!arrows) return keys.filter((key) => key !== "Backspace");
  return [`${keys[0].split("+")[0]}+${keys.map((key) => SHOWN[key.split("+")[1]]).join("")}`];
}

/** The dialog that lists all shortcuts. */
export function showHelp() {
  const dialog = byId("shortcuts");
  const titles = { "": "Everywhere", images: "Images", image: "One image", runs: "Runs" };
  const parts = Object.entries(titles)
    .filter(([view]) => lists.get(view)?.length)
    .map(([view, title]) =>
      el(
        "section",
        {},
        el("h3", {}, title),
        el(
          "dl",
          {},
          ...(lists.get(view) ?? []).flatMap(([keys, what]) => [
            el("dt", {}, ...grouped(keys).map(shown)),
            el("dd", {}, what),
          ]),
        ),
      ),
    );
  const title = el("h2", { id: "shortcuts-title" }, "Keyboard shortcuts");
  const close = el("button", { type: "button", onclick: () => dialog.close() }, "Close");
  fill(dialog, title, el("div", { class: "columns" }, ...parts), close);
  dialog.showModal();
}
