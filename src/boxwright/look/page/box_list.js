// The boxes of an image as text, beside the canvas: the same selection, for keyboards and screen readers.
import { count, el, field, fill, select, short } from "./dom.js";

/** List of all shown boxes. */
export class BoxList {
  constructor(view) {
    this.view = view;
    this.title = el("summary", {}, "Boxes");
    this.list = el("div", {
      class: "boxes", role: "listbox", tabindex: "0", "aria-label": "Boxes of the image",
      onkeydown: (event) => this.key(event),
    });
    this.element = el("details", { class: "section", open: true }, this.title, this.list);
  }

  update() {
    const { layers } = this.view;
    const key = JSON.stringify(layers.map((layer) => [layer.title, layer.boxes.map((one) => one.id)]));
    if (key !== this.built) this.build(layers);
    else for (const layer of layers) layer.boxes.forEach((one, index) => this.renew(layer, one, index));
    this.built = key;
    this.mark();
  }

  build(layers) {
    this.rows = new Map(); // id -> element
    this.shown = new Map(); // id -> box that it shows
    const parts = layers.flatMap((layer) => {
      const rows = layer.boxes.map((one, index) => this.row(layer, one, index, `box-${this.rows.size}`));
      return [el("div", { class: "group", role: "presentation" }, `${layer.title} (${layer.boxes.length})`), ...rows];
    });
    this.title.textContent = `Boxes (${this.rows.size})`;
    fill(this.list, this.rows.size ? parts : el("p", { class: "muted" }, "No boxes are shown."));
  }

  /** Replace a row only if its box has changed, since there may be a thousand rows. */
  renew(layer, one, index) {
    const before = this.shown.get(one.id);
    if (before.source === one.source && before.color === one.color) return;
    const old = this.rows.get(one.id);
    old.replaceWith(this.row(layer, one, index, old.id));
  }

  row(layer, one, index, id) {
    const dot = el("i", { class: "dot" });
    dot.style.background = one.color;
    const title = one.class ?? "ignore region";
    const notes = [
      typeof one.score === "number" ? one.score.toFixed(2) : "",
      one.status ?? "",
      one.crowd ? "crowd" : "",
      one.difficult ? "difficult" : "",
      String(one.id).startsWith("new ") ? "new" : "",
    ];
    const row = el(
      "div",
      {
        class: "row", role: "option", id, "aria-selected": "false",
        "aria-label": [`${layer.title} ${index + 1}`, title, ...notes, coordinates(one.box)].filter(Boolean).join(", "),
        onclick: () => this.view.select(one.id, true),
      },
      dot,
      el("span", { class: "name" }, title),
      el("span", { class: "muted" }, notes.filter(Boolean).join(" · ")),
    );
    this.rows.set(one.id, row);
    this.shown.set(one.id, one);
    return row;
  }

  /** Show which box is selected. */
  mark() {
    this.list.querySelector("[aria-selected=true]")?.setAttribute("aria-selected", "false");
    const row = this.rows?.get(this.view.selected);
    row?.setAttribute("aria-selected", "true");
    if (row) this.reveal(row);
    if (row) this.list.setAttribute("aria-activedescendant", row.id);
    else this.list.removeAttribute("aria-activedescendant");
  }

  /** Scroll only the list, so that a row is visible. */
  reveal(row) {
    const [outer, inner] = [this.list, row].map((one) => one.getBoundingClientRect());
    const heading = 26; // px that the heading of a group covers
    if (inner.top < outer.top + heading) this.list.scrollTop -= outer.top + heading - inner.top;
    else if (inner.bottom > outer.bottom) this.list.scrollTop += inner.bottom - outer.bottom;
  }

  /** Select the next or previous box. */
  step(step) {
    const ids = [...this.rows.keys()];
    if (!ids.length) return;
    const place = ids.indexOf(this.view.selected);
    const next = place < 0 ? (step > 0 ? 0 : ids.length - 1) : (place + step + ids.length) % ids.length;
    this.view.select(ids[next], true);
  }

  key(event) {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const ids = [...this.rows.keys()];
    if (event.key === "ArrowDown" || event.key === "ArrowUp") this.step(event.key === "ArrowDown" ? 1 : -1);
    else if (event.key === "Home" && ids.length) this.view.select(ids[0], true);
    else if (event.key === "End" && ids.length) this.view.select(ids.at(-1), true);
    else if (event.key === "Enter" && !this.view.tool.isAdding) this.view.zoomToSelected();
    else return;
    event.preventDefault();
  }
}

function coordinates(box) {
  return `from ${short(box[0])}, ${short(box[1])} to ${short(box[2])}, ${short(box[3])}`;
}

/** Properties of the selected box, with fields to change it. */
export class BoxEditor {
  constructor(view) {
    this.view = view;
    this.element = el("div", { class: "editor" });
  }

  update() {
    const { view } = this;
    const one = view.selectedBox;
    const focused = this.element.contains(document.activeElement) ? document.activeElement.name : null;
    if (!one) return fill(this.element, el("p", { class: "muted" }, "Select a box in the image or in the list."));
    const isEditable = view.isEditing && view.selectedObject !== null;
    const names = view.context.set.classes;
    const all = names.includes(one.class) || one.class === null ? names : [one.class, ...names];
    const chosen = select(
      all.map((name) => [name, name]), one.class, (name) => view.change({ class: name }),
      { name: "class", disabled: !isEditable },
    );
    const inputs = ["x1", "y1", "x2", "y2"].map((side, index) =>
      field(
        side,
        el("input", {
          type: "number", name: side, step: "any", value: short(one.box[index], 2), disabled: !isEditable,
          onchange: (event) => view.changeSide(side, event.target.valueAsNumber),
        }),
      ),
    );
    const [x1, y1, x2, y2] = one.box;
    const facts = [
      `${short(x2 - x1)} × ${short(y2 - y1)} px`,
      typeof one.score === "number" && `score ${one.score.toFixed(3)}`,
      one.status,
      typeof one.match !== "undefined" && one.match !== null && `matches object ${one.match}`,
    ];
    fill(
      this.element,
      field("Class", chosen),
      el("div", { class: "sides" }, ...inputs),
      el("p", { class: "muted" }, facts.filter(Boolean).join(" · ")),
      isEditable && el("button", { type: "button", onclick: () => view.remove() }, "Delete box"),
    );
    if (focused) this.element.querySelector(`[name="${focused}"]`)?.focus();
    return undefined;
  }
}

/** Text for the status line. */
export function describe(changes) {
  return changes.length ? count(changes.length, "unsaved change") : "No unsaved changes";
}
