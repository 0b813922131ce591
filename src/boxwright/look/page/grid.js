// Grid of images. Only visible cells are elements, so a set may have any number of images.
import { get, url } from "./api.js";
import { FINDING, STATUSES } from "./colors.js";
import { showMessages } from "./controls.js";
import { detail } from "./details.js";
import { count, el, fill } from "./dom.js";
import { drawBoxes } from "./draw.js";
import { errorCounts, layersOf } from "./layers.js";
import { announce, showError } from "./messages.js";

const PAGE = 100; // rows of the list that are requested together
const GAP = 8;
const LINE = 18; // px of a line of text below a thumbnail

export class Grid {
  constructor(main, context) {
    this.context = context;
    this.space = el("div", { class: "space", role: "list", "aria-label": "Images" });
    this.scroller = el("div", { class: "scroller", onscroll: () => this.draw() }, this.space);
    this.status = el("p", { class: "status", role: "status" });
    this.message = el("p", { class: "warning", role: "status", hidden: true });
    fill(main, el("h1", { class: "hidden" }, "Images"), this.message, this.status, this.scroller);
    this.cells = new Map(); // position -> {element, abort}
    this.watcher = new ResizeObserver(() => this.layout());
    this.watcher.observe(this.scroller);
    this.reset();
  }

  reset() {
    this.rows = new Map(); // position -> row of the list
    this.pages = new Map(); // number of a page -> AbortController
    this.total = null;
  }

  leave() {
    this.watcher.disconnect();
    this.clear();
    for (const page of this.pages.values()) page.abort();
  }

  clear() {
    for (const cell of this.cells.values()) cell.abort.abort();
    this.cells.clear();
    this.space.replaceChildren();
  }

  update(state, before) {
    const key = JSON.stringify(this.context.state.filter());
    showMessages(this.message, this.context.set, state);
    if (key !== this.key) {
      this.key = key;
      for (const page of this.pages.values()) page.abort();
      this.reset();
      this.focus = before ? 0 : Number(state.at) || 0;
      this.jump = !before;
      this.scroller.scrollTop = 0;
      this.clear();
      this.request(Math.floor(this.focus / PAGE));
    } else {
      this.clear();
      this.layout();
    }
  }

  async request(page) {
    if (this.pages.has(page)) return;
    const abort = new AbortController();
    this.pages.set(page, abort);
    if (this.total === null) this.status.textContent = "Loading…";
    try {
      const parameters = { ...this.context.state.filter(), offset: page * PAGE, limit: PAGE };
      const answer = await get("images", parameters, abort.signal);
      const isFirst = this.total === null;
      this.total = answer.total;
      answer.images.forEach((row, place) => this.rows.set(page * PAGE + place, row));
      if (isFirst) announce(count(this.total, "image"));
      if (this.focus >= this.total) this.focus = 0;
      this.layout();
      if (this.jump) this.reveal(this.focus, true);
      this.jump = false;
    } catch (error) {
      if (error.name === "AbortError") return;
      this.status.textContent = "";
      showError(error, [["Try again", () => (this.pages.delete(page), this.request(page))]]);
    }
  }

  layout() {
    if (this.total === null) return;
    const filtered = this.context.isFiltered();
    this.status.textContent = this.total
      ? `${count(this.total, "image")}${filtered ? " match the filters" : ""}`
      : filtered ? "No image matches the filters." : "The set has no images.";
    const wanted = Number(this.context.state.now.tile) || 200;
    const width = this.scroller.clientWidth - GAP;
    this.columns = Math.max(width < 480 ? 2 : 1, Math.floor(width / (wanted + GAP)));
    this.width = Math.floor(width / this.columns) - GAP;
    this.imageHeight = Math.round(this.width * 0.75);
    this.height = this.imageHeight + LINE * (this.context.state.now.a ? 3 : 2) + 4;
    const lines = Math.ceil(this.total / this.columns);
    this.space.style.height = `${lines * (this.height + GAP) + GAP}px`;
    const size = `${this.columns} ${this.width} ${this.height}`;
    if (size !== this.size) this.clear();
    this.size = size;
    this.draw();
  }

  draw() {
    if (!this.total) return this.clear();
    const line = this.height + GAP;
    const top = Math.max(0, Math.floor(this.scroller.scrollTop / line) - 1);
    const bottom = Math.ceil((this.scroller.scrollTop + this.scroller.clientHeight) / line) + 1;
    const first = top * this.columns;
    const last = Math.min(this.total, bottom * this.columns);
    for (const [position, cell] of this.cells) {
      if (position >= first && position < last) continue;
      if (cell.element.contains(document.activeElement)) continue; // the focus stays where it is
      cell.abort.abort();
      cell.element.remove();
      this.cells.delete(position);
    }
    for (let position = first; position < last; position += 1) {
      const row = this.rows.get(position);
      if (!row) this.request(Math.floor(position / PAGE));
      else if (!this.cells.has(position)) this.add(position, row);
    }
  }

  add(position, row) {
    const abort = new AbortController();
    const canvas = el("canvas", { "aria-hidden": "true" });
    const notes = el("span", { class: "notes" });
    const title = row.name.split("/").pop();
    const link = el(
      "a",
      {
        href: this.context.state.link({ view: "image", id: String(row.id), at: String(position), place: "" }),
        class: "thumb",
        title: row.name,
        tabindex: position === this.focus ? "0" : "-1",
        "aria-label": `${row.name}, ${count(row.objects, "object")}`,
        onfocus: () => this.setFocus(position),
        onkeydown: (event) => this.move(event, position),
      },
      el("span", { class: "thumbnail" }, this.image(row), canvas),
      el("span", { class: "name" }, title, this.context.drafts.isChanged(row.id) ? " • unsaved" : ""),
      notes,
    );
    const attributes = { class: "cell", role: "listitem", "aria-setsize": this.total, "aria-posinset": position + 1 };
    const element = el("div", attributes, link);
    element.style.width = `${this.width}px`;
    element.style.height = `${this.height}px`;
    element.style.setProperty("--image-height", `${this.imageHeight}px`);
    element.style.left = `${GAP + (position % this.columns) * (this.width + GAP)}px`;
    element.style.top = `${GAP + Math.floor(position / this.columns) * (this.height + GAP)}px`;
    this.cells.set(position, { element, abort, link });
    this.space.append(element);
    if (position === this.wanted && this.hasFocus()) link.focus({ preventScroll: true });
    this.decorate(row, link, canvas, notes, abort.signal);
  }

  image(row) {
    const image = el("img", { alt: "", decoding: "async", src: url(`images/${row.id}/thumbnail`) });
    const fault = () => image.replaceWith(el("span", { class: "gone" }, "The image cannot be read."));
    image.addEventListener("error", fault);
    return image;
  }

  /** Draw the boxes, and write their counts. */
  async decorate(row, link, canvas, notes, signal) {
    const { state, drafts, classes } = this.context;
    const now = state.now;
    fill(notes, count(row.objects, "object"));
    try {
      const answer = await detail(row.id, state.detail(), signal);
      if (signal.aborted) return;
      const objects = drafts.isChanged(row.id) ? drafts.get(row.id).boxes : answer.objects;
      const { width, height } = answer;
      if (width && height) {
        const boxes = layersOf(answer, objects, now, classes).flatMap((layer) => layer.boxes);
        this.paint(canvas, boxes, width, height);
      }
      const errors = answer.evaluated.includes(now.a) ? errorCounts(answer, now.a) : [];
      const open = answer.findings.filter((one) => one.state === "open").length;
      const numbers = [count(objects.length, "object"), this.detections(answer, now.a)].filter(Boolean);
      const named = ([status, number]) => [STATUSES[status], `${number} ${SHORT[status] ?? status}`, status];
      const chips = errors.map(named);
      if (open) chips.push([FINDING, count(open, "finding"), "open findings"]);
      fill(notes, numbers.join(" · "), chips.length > 0 && el("br"), chips.map((one) => chip(...one)));
      link.setAttribute("aria-label", [row.name, ...numbers, ...chips.map(([, text]) => text)].join(", "));
    } catch (error) {
      if (error.name !== "AbortError") fill(notes, el("span", { class: "bad" }, error.message));
    }
  }

  detections(answer, run) {
    if (!answer.detections?.[run]) return null;
    if (!answer.evaluated.includes(run)) return `${answer.split}: not evaluated`;
    return count(answer.detections[run].length, "detection");
  }

  paint(canvas, boxes, width, height) {
    const ratio = Math.min(2, devicePixelRatio || 1);
    canvas.width = this.width * ratio;
    canvas.height = this.imageHeight * ratio;
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    const scale = Math.min(this.width / width, this.imageHeight / height);
    const view = {
      scale,
      dx: (this.width - width * scale) / 2,
      dy: (this.imageHeight - height * scale) / 2,
      width: this.width,
      height: this.imageHeight,
    };
    drawBoxes(context, boxes, view, false, 1.5, 0);
  }

  /** Whether the focus is in the grid, or nowhere. */
  hasFocus() {
    return document.activeElement === document.body || this.space.contains(document.activeElement);
  }

  setFocus(position) {
    const before = this.cells.get(this.focus);
    if (before) before.link.tabIndex = -1;
    this.focus = this.wanted = position;
    const cell = this.cells.get(position);
    if (cell) cell.link.tabIndex = 0;
  }

  /** Scroll to a cell; focus it unless something outside of the grid has the focus. */
  reveal(position, gently = false) {
    const line = this.height + GAP;
    const top = Math.floor(position / this.columns) * line;
    const low = top + line + GAP - this.scroller.clientHeight;
    if (this.scroller.scrollTop > top) this.scroller.scrollTop = top;
    else if (this.scroller.scrollTop < low) this.scroller.scrollTop = low;
    this.draw();
    if (gently && document.activeElement !== document.body) return;
    this.wanted = position; // focused when its row has come
    this.cells.get(position)?.link.focus({ preventScroll: true });
  }

  move(event, position) {
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / (this.height + GAP))) * this.columns;
    const steps = {
      ArrowLeft: -1, ArrowRight: 1, ArrowUp: -this.columns, ArrowDown: this.columns, PageUp: -page, PageDown: page,
      Home: -position, End: this.total - 1 - position,
    };
    const step = steps[event.key];
    if (step === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    const target = position + step;
    if (target >= 0 && target < this.total) {
      this.reveal(target);
      this.setFocus(target);
    }
  }

  focusFirst() {
    if (this.total) this.reveal(this.focus);
  }
}

const SHORT = { localization: "loc", classification: "class", duplicate: "dup", background: "bg" };

function chip(color, text, title) {
  const dot = el("i", { class: "dot" });
  dot.style.background = color;
  return el("span", { class: "chip", title }, dot, text);
}
