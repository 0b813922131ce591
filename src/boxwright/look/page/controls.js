// Controls of the panel: filters of the list of images, and display options.
import { STATUSES } from "./colors.js";
import { checkbox, el, field, fill, section, select } from "./dom.js";
import { KINDS } from "./layers.js";

const SIZES = [
  ["", "All sizes"],
  ["small", "Small (below 32² px)"],
  ["medium", "Medium (to 96² px)"],
  ["large", "Large (above 96² px)"],
];

/** Filters. They also determine the next image in the view of one image. */
export class Filters {
  constructor(context) {
    const { set, state } = context;
    this.state = state;
    const change = (name) => (value) => state.set({ [name]: value, at: "" });
    const statuses = set.statuses ?? Object.keys(STATUSES).filter((name) => !["ignored", "not counted"].includes(name));
    const kinds = Object.entries(set.audit?.kinds ?? {}).map(([name, number]) => [name, `${KINDS[name]} (${number})`]);
    const total = set.splits.reduce((sum, split) => sum + split.images, 0);
    this.selects = {
      split: select(
        [["", `All splits (${total.toLocaleString("en")})`],
          ...set.splits.map(({ name, images }) => [name, `${name} (${images.toLocaleString("en")})`])],
        "", change("split"),
      ),
      class: select([["", "All classes"], ...set.classes.map((name) => [name, name])], "", change("class")),
      size: select(SIZES, "", change("size")),
      status: select([["", "Any"], ...statuses.map((name) => [name, name])], "", change("status")),
      finding: select(
        [["", "Any"], ["any", "all findings"], ...kinds], "", change("finding"),
      ),
    };
    const cleared = { split: "", class: "", size: "", status: "", finding: "", at: "" };
    this.reset = el("button", { type: "button", onclick: () => state.set(cleared) }, "Reset filters");
    this.hint = el("p", { class: "muted" });
    this.element = section(
      "Filters", matchMedia("(min-width: 721px)").matches,
      field("Split", this.selects.split),
      field("Class", this.selects.class),
      field("Object size", this.selects.size),
      set.runs.length > 0 && field("Status (run A)", this.selects.status),
      set.runs.length > 0 && this.hint,
      set.audit && field("Audit finding", this.selects.finding),
      this.reset,
    );
  }

  update(now) {
    for (const [name, element] of Object.entries(this.selects)) element.value = now[name];
    this.selects.status.disabled = !now.a;
    this.hint.textContent = now.a ? "" : "Choose run A to filter by status.";
    this.hint.hidden = Boolean(now.a);
    this.reset.disabled = !Object.keys(this.selects).some((name) => now[name]);
  }
}

/** Display options: runs, layers, colors. */
export class Display {
  /** isSingle: for the view of one image. */
  constructor(context, isSingle) {
    const { set, state } = context;
    Object.assign(this, { set, state });
    const runs = [["", "None"], ...set.runs.map(({ name }) => [name, name])];
    this.runs = {
      a: select(runs, "", (value) => state.set(value ? { a: value } : { a: "", status: "" })),
      b: select(runs, "", (value) => state.set({ b: value })),
    };
    this.score = el("input", { type: "range", min: "0", max: "1", step: "0.01", oninput: () => this.slide() });
    this.value = el("output");
    const layer = (key, text) => checkbox(text, true, (on) => this.toggle(key, on), { name: `layer-${key}` });
    this.layers = {
      t: layer("t", "Ground truth"), a: layer("a", "Run A"), b: layer("b", "Run B"), f: layer("f", "Findings"),
    };
    this.color = select([["class", "Class"], ["status", "Status"]], "class", (value) => state.set({ color: value }));
    this.mode = select([["overlay", "Overlay"], ["side", "Side by side"]], "", (value) => state.set({ mode: value }));
    this.labels = checkbox("Labels", true, (on) => state.set({ labels: on ? "1" : "0" }));
    const resize = () => state.set({ tile: this.tile.value });
    this.tile = el("input", { type: "range", min: "120", max: "480", step: "20", onchange: resize });
    this.legend = el("ul", { class: "legend", "aria-label": "Colors of statuses" });
    this.element = section(
      "Display", isSingle || matchMedia("(min-width: 721px)").matches,
      ...(set.runs.length
        ? [field("Run A", this.runs.a), field("Run B", this.runs.b),
          field("Minimum score", el("span", { class: "slider" }, this.score, this.value))]
        : [el("p", { class: "muted" }, "No runs were given: boxwright look DATA RUN …")]),
      el("fieldset", {}, el("legend", {}, "Layers"), this.layers.t, set.runs.length > 0 && this.layers.a,
        set.runs.length > 0 && this.layers.b, set.audit !== null && isSingle && this.layers.f),
      isSingle && set.runs.length > 0 && field("Comparison", this.mode),
      set.runs.length > 0 && field("Color by", this.color),
      this.legend,
      isSingle && this.labels,
      !isSingle && field("Thumbnail size", this.tile),
    );
  }

  toggle(key, on) {
    const { layers } = this.state.now;
    this.state.set({ layers: on ? layers + key : layers.replaceAll(key, "") });
  }

  slide() {
    this.value.textContent = Number(this.score.value).toFixed(2);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.state.set({ score: this.score.value }), 200);
  }

  update(now) {
    for (const key of ["a", "b"]) {
      this.runs[key].value = now[key];
      this.layers[key].querySelector("input").disabled = !now[key];
    }
    for (const [key, label] of Object.entries(this.layers)) {
      label.querySelector("input").checked = now.layers.includes(key);
    }
    this.score.value = now.score;
    this.value.textContent = Number(now.score).toFixed(2);
    this.color.value = now.color;
    this.mode.value = now.mode;
    this.tile.value = now.tile;
    this.labels.querySelector("input").checked = now.labels !== "0";
    this.legend.hidden = now.color !== "status";
    fill(this.legend, Object.entries(STATUSES).map(([name, color]) => {
      const dot = el("i", { class: "dot" });
      dot.style.background = color;
      return el("li", {}, dot, name);
    }));
  }
}

/** Errors of the chosen runs, as [name, message] pairs. */
function runMessages(set, now) {
  const chosen = set.runs.filter((run) => run.message && (run.name === now.a || run.name === now.b));
  return chosen.map((run) => [run.name, run.message]);
}

/** Show in an element, one per line, errors of the chosen runs and messages about an image. */
export function showMessages(element, set, now, text = "") {
  const ofRuns = runMessages(set, now);
  const others = text.split("\n").filter((line) => line && !ofRuns.some(([name]) => line.startsWith(`${name}: `)));
  element.textContent = [...others, ...ofRuns.map((pair) => pair.join(": "))].join("\n");
  element.hidden = !element.textContent;
}

/** One line that names the filters in use; "" without any. */
export function filterText(now, names) {
  return names.filter((name) => now[name]).map((name) => `${name}: ${now[name]}`).join(", ");
}

