// The page: current view, header, global shortcuts.
import { get } from "./api.js";
import { Display, Filters } from "./controls.js";
import { byId, count, fill } from "./dom.js";
import { Drafts } from "./drafts.js";
import { Grid } from "./grid.js";
import { imageKeys } from "./image_keys.js";
import { ImageView } from "./image_view.js";
import { listen, setKeys, showHelp } from "./keys.js";
import { clear, showError } from "./messages.js";
import { RunsView } from "./runs_view.js";
import { FILTERS, State } from "./state.js";

/** Grid, filters and display together. */
class ImagesView {
  constructor(main, panel, context) {
    this.filters = new Filters(context);
    this.display = new Display(context, false);
    fill(panel, this.filters.element, this.display.element);
    this.grid = new Grid(main, context);
  }

  update(now, before) {
    document.title = "boxwright look";
    this.filters.update(now);
    this.display.update(now);
    this.grid.update(now, before);
  }

  leave() {
    this.grid.leave();
  }
}

const VIEWS = { images: ImagesView, image: ImageView, runs: RunsView };
let context = null;
let view = null;

function show(now, before) {
  const isNew = !view || now.view !== before?.view;
  if (isNew) {
    view?.leave();
    if (before) clear();
    byId("body").dataset.view = now.view;
    view = new VIEWS[now.view](byId("main"), byId("panel"), context);
  }
  for (const [id, isHere] of [["tab-images", now.view !== "runs"], ["tab-runs", now.view === "runs"]]) {
    if (isHere) byId(id).setAttribute("aria-current", "page");
    else byId(id).removeAttribute("aria-current");
  }
  byId("tab-images").href = context.state.link({ view: "images", id: "", place: "" });
  byId("tab-runs").href = context.state.link({ view: "runs", id: "", place: "" });
  view.update(now, isNew ? null : before);
}

/** Show another view, or another image. */
function open(name, id = "") {
  context.state.set({ view: name, id, at: "", place: "" });
}

/** After a change of colors. */
function redraw() {
  view?.update(context.state.now, context.state.now);
}

function toggleLayer(key) {
  const { layers } = context.state.now;
  context.state.set({ layers: layers.includes(key) ? layers.replaceAll(key, "") : layers + key });
}

const THEMES = { "": "as the system", light: "light", dark: "dark" };

function setTheme(name) {
  if (name) document.documentElement.dataset.theme = name;
  else delete document.documentElement.dataset.theme;
  const button = byId("theme");
  button.textContent = { "": "◐", light: "○", dark: "●" }[name];
  button.title = `Theme: ${THEMES[name]} (T)`;
  button.setAttribute("aria-label", `Theme: ${THEMES[name]}`);
  try {
    localStorage.setItem("theme", name);
  } catch {
    // storage may be disabled
  }
  redraw();
}

function nextTheme() {
  const names = Object.keys(THEMES);
  setTheme(names[(names.indexOf(document.documentElement.dataset.theme ?? "") + 1) % names.length]);
}

function startTheme() {
  let name = "";
  try {
    name = localStorage.getItem("theme") ?? "";
  } catch {
    // as above
  }
  setTheme(name in THEMES ? name : "");
  byId("theme").addEventListener("click", nextTheme);
}

function showUnsaved() {
  const { changed } = context.drafts;
  const button = byId("unsaved");
  button.hidden = !changed.length;
  button.textContent = `${changed.length} unsaved`;
  button.setAttribute("aria-label", `Unsaved changes in ${count(changed.length, "image")}; show the first`);
}

function startKeys() {
  setKeys("", [
    [["?"], "this list", showHelp],
    [["t"], "theme: system, light, dark", nextTheme],
    [["i", "r"], "images, runs", (event, place) => open(["images", "runs"][place])],
    [["/"], "to the filters", () => {
      const section = view.filters?.element;
      if (!section) return false;
      section.open = true;
      section.querySelector("select").focus();
      return true;
    }],
  ]);
  const focus = () => view.grid.focusFirst();
  setKeys("images", [
    [["ArrowRight", "ArrowLeft", "ArrowDown", "ArrowUp"], "move in the grid", focus],
    [["Enter"], "open the image", () => false],
    [["g", "a", "b"], "show or hide ground truth, run A, run B", (event, place) => toggleLayer("tab"[place])],
    [["x"], "reset the filters", () => view.filters.reset.click()],
  ]);
  setKeys("image", imageKeys(() => view, toggleLayer));
  setKeys("runs", [[["Escape"], "back to the images", () => context.state.set({ view: "images" })]]);
  listen(() => context.state.now.view);
  byId("help").addEventListener("click", showHelp);
  byId("skip").addEventListener("click", (event) => (event.preventDefault(), byId("main").focus()));
}

async function start() {
  startTheme();
  let set;
  try {
    set = await get("set");
  } catch (error) {
    return showError(error, [["Try again", start]]);
  }
  byId("data").textContent = `${set.data} (${set.layout})`;
  byId("data").title = set.editable ? "Labels can be changed" : set.reason;
  const usable = set.runs.filter((run) => run.predictions).map((run) => run.name);
  const classes = new Map(set.classes.map((name, index) => [name, index]));
  context = { set, classes, isFiltered: () => FILTERS.some((name) => context.state.now[name]) };
  context.drafts = new Drafts(showUnsaved);
  const [a, b] = [usable[0] ?? set.runs[0]?.name ?? "", usable[1] ?? ""];
  const evaluated = set.runs.find((run) => run.name === a)?.split; // split with predictions
  const split = set.splits.some((one) => one.name === evaluated) ? evaluated : "";
  context.state = new State({ a, b, split, mode: b ? "side" : "overlay" }, show);
  byId("unsaved").addEventListener("click", () => open("image", context.drafts.changed[0]));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  startKeys();
  show(context.state.now, null);
  if (set.message) showError(set.message);
  return undefined;
}

start();
