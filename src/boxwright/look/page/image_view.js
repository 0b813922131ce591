// One image: panes, layers, selection. Changes of boxes are in repair.js.
import { get } from "./api.js";
import { BoxEditor, BoxList } from "./box_list.js";
import { Camera } from "./camera.js";
import { Display, Filters, filterText, showMessages } from "./controls.js";
import { el, fill, section } from "./dom.js";
import { prepare, DASHES } from "./draw.js";
import { EditTool } from "./edit_tool.js";
import { Findings } from "./findings.js";
import { listen } from "./gestures.js";
import { findingBoxes, layersOf } from "./layers.js";
import { announce, showError } from "./messages.js";
import { Repair } from "./repair.js";
import { FILTERS } from "./state.js";
import { Tiles } from "./tiles.js";
import { Viewer } from "./viewer.js";

export class ImageView extends Repair {
  constructor(main, panel, context) {
    super(context);
    this.layers = [];
    this.viewers = [];
    this.selected = null;
    this.isEditing = false;
    this.answer = null;
    this.tool = new EditTool(this);
    this.list = new BoxList(this);
    this.editor = new BoxEditor(this);
    this.findings = new Findings(this);
    this.display = new Display(context, true);
    this.filters = new Filters(context);
    this.filters.element.open = false;
    this.panes = el("div", { class: "panes" });
    this.watcher = new ResizeObserver(() => this.arrange());
    this.watcher.observe(this.panes);
    this.message = el("p", { class: "warning", role: "alert", hidden: true });
    fill(this.panes, el("p", { class: "muted loading" }, "Loading…"));
    this.buildToolbar();
    fill(main, this.heading, this.toolbar, this.message, el("div", { class: "stage" }, this.panes, this.zoom));
    const editor = section("Selected box", true, this.editor.element);
    fill(panel, this.findings.element, editor, this.list.element, this.display.element, this.filters.element);
  }

  buildToolbar() {
    const { state } = this.context;
    const button = (text, title, run, extra = {}) =>
      el("button", { type: "button", title, "aria-label": title, onclick: run, ...extra }, text);
    this.heading = el("h1", { class: "hidden" }, "Image");
    this.back = el("a", { class: "button", href: "#", title: "Back to the images (Esc)" }, "← Images");
    this.previous = button("‹", "Previous image (←)", () => this.go(-1));
    this.next = button("›", "Next image (→)", () => this.go(1));
    this.position = el("span", { class: "position" });
    this.name = el("span", { class: "name" });
    const released = { "aria-pressed": "false" };
    this.edit = button("Edit", "Edit boxes (E)", () => this.setEditing(!this.isEditing), released);
    this.addButton = button("Add box", "Add a box (N)", () => this.setAdding(!this.tool.isAdding), released);
    this.undoButton = button("Undo", "Undo (Ctrl+Z)", () => this.undo());
    this.discardButton = button("Discard", "Discard all unsaved changes of this image", () => this.discard());
    this.saveButton = button("Save", "Save changes to the labels (Ctrl+S)", () => this.save(), { class: "primary" });
    this.zoomText = el("output", { "aria-label": "Zoom" });
    const zoom = el(
      "div", { class: "zoom", role: "group", "aria-label": "Zoom" },
      button("−", "Zoom out (-)", () => this.camera?.zoom(1 / 1.5)), this.zoomText,
      button("+", "Zoom in (+)", () => this.camera?.zoom(1.5)),
      button("Fit", "Show the whole image (0)", () => this.camera?.fit()),
    );
    this.toolbar = el(
      "div", { class: "toolbar", role: "toolbar", "aria-label": "Image" },
      this.back, this.previous, this.next, this.position, this.name, el("span", { class: "space" }),
      this.edit, this.addButton, this.undoButton, this.discardButton, this.saveButton,
    );
    this.zoom = zoom;
    this.back.addEventListener("click", (event) => {
      event.preventDefault();
      state.set({ view: "images", id: "", place: "" });
    });
  }

  get draft() {
    return this.context.drafts.get(this.answer.id);
  }

  /** Why boxes of this image cannot be changed; "" if they can. */
  get reason() {
    const { set } = this.context;
    if (!set.editable) return set.reason || "The labels of this set cannot be changed.";
    return this.answer.editable === false ? this.answer.reason || "The labels of this image cannot be changed." : "";
  }

  get selectedBox() {
    for (const layer of this.layers) for (const one of layer.boxes) if (one.id === this.selected) return one;
    return null;
  }

  /** The selected box if it is one of the ground truth that can be changed. */
  get selectedObject() {
    return this.answer && !this.reason ? (this.draft?.boxes.find((one) => one.id === this.selected) ?? null) : null;
  }

  boxesOf(key) {
    return this.layers.filter((layer) => key.includes(layer.key)).flatMap((layer) => layer.boxes);
  }

  leave() {
    this.abort?.abort();
    this.tiles?.stop();
    this.watcher.disconnect();
    clearTimeout(this.timer);
    for (const viewer of this.viewers) viewer.stop();
  }

  update(now, before) {
    this.display.update(now);
    this.filters.update(now);
    const fresh = !before || before.view !== "image" || now.id !== before.id;
    const differs = (...names) => names.some((name) => now[name] !== before[name]);
    if (fresh) this.load(true);
    else if (differs("a", "b", "score")) this.load(false);
    else if (differs("layers", "mode", "color")) this.show();
    else if (differs("labels")) this.request();
    if (!fresh && differs("at", ...FILTERS)) this.locate();
  }

  /** Load the image; fresh: whether it is another one than before. */
  async load(fresh) {
    const { state, drafts } = this.context;
    this.abort?.abort();
    this.abort = new AbortController();
    try {
      const answer = await get(`images/${state.now.id}`, state.detail(), this.abort.signal);
      this.answer = answer;
      drafts.open(answer);
      if (fresh) this.open(answer);
      this.show();
      if (fresh) this.locate();
    } catch (error) {
      showError(error, [["Try again", () => this.load(fresh)]]);
    }
  }

  open(answer) {
    this.tiles?.stop();
    this.selected = null;
    this.setAdding(false);
    this.camera = new Camera(answer.width || 1, answer.height || 1, () => this.cameraMoved());
    this.tiles = new Tiles(answer, () => this.request(), (isBase) => isBase && this.imageFailed());
    for (const viewer of this.viewers) viewer.stop();
    this.viewers = [];
    if (this.context.state.now.place) this.camera.place = this.context.state.now.place;
    this.name.textContent = answer.name;
    this.name.title = `${answer.name}, ${answer.width} × ${answer.height} px, ${answer.split}`;
    this.heading.textContent = answer.name;
    document.title = `${answer.name} – boxwright look`;
  }

  imageFailed() {
    this.answer.message ||= `${this.answer.name}: the image cannot be read.`;
    this.show();
  }

  /** Create layers and panes from the response and the draft. */
  show() {
    const { state, classes } = this.context;
    const { now } = state;
    if (!this.answer) return;
    this.layers = layersOf(this.answer, this.draft.boxes, now, classes);
    this.marks = now.layers.includes("f") ? findingBoxes(this.answer.findings, classes) : [];
    const keys = this.layers.map((layer) => layer.key);
    const panes = now.mode === "side" && keys.length > 1 ? keys : [keys.join("")];
    const isSame = this.viewers.length > 0 && String(panes) === String(this.viewers.map((viewer) => viewer.key));
    if (!isSame) this.buildPanes(panes);
    for (const viewer of this.viewers) {
      viewer.caption.textContent = this.caption(viewer.key);
      const number = this.boxesOf(viewer.key).length;
      const text = `${this.answer.name} with ${number} boxes; the list of boxes has them as text`;
      viewer.canvas.setAttribute("aria-label", text);
    }
    showMessages(this.message, this.context.set, now, this.answer.message);
    this.edit.title = this.reason || "Edit boxes (E)";
    this.edit.setAttribute("aria-disabled", String(Boolean(this.reason)));
    this.list.update();
    this.editor.update();
    this.findings.update();
    this.updateButtons();
    this.request();
  }

  /** Title of a pane with its layers; the status of objects refers to run A, also beside run B. */
  caption(key) {
    const { color, a } = this.context.state.now;
    const note = color === "status" && a && key.includes("t") ? ` (status against ${a})` : "";
    return this.layers.filter((layer) => key.includes(layer.key)).map((layer) => layer.title).join(" + ") + note;
  }

  buildPanes(keys) {
    for (const viewer of this.viewers) viewer.stop();
    this.viewers = keys.map((key) => new Viewer(key, this.camera, (pane) => this.content(pane)));
    for (const viewer of this.viewers) listen(viewer, this.tool);
    fill(this.panes, this.viewers.map((viewer) => viewer.element));
    this.arrange();
  }

  /** Choose the number of columns of panes with which the image is largest. */
  arrange() {
    const { clientWidth: width, clientHeight: height } = this.panes;
    const count = this.viewers.length;
    if (!count || !width || !this.answer.width) return;
    const scale = (columns) =>
      Math.min(width / columns / this.answer.width, (height / Math.ceil(count / columns) - 20) / this.answer.height);
    let best = 1;
    for (let columns = 2; columns <= count; columns += 1) if (scale(columns) > scale(best)) best = columns;
    this.panes.style.gridTemplateColumns = `repeat(${best}, minmax(0, 1fr))`;
  }

  content(key) {
    const now = this.context.state.now;
    const boxes = this.boxesOf(key);
    const isFirst = this.viewers[0]?.key === key;
    const selected = boxes.find((one) => one.id === this.selected);
    const moving = { class: this.newClass, ...(this.tool.isAdding ? {} : this.selectedObject), box: this.preview };
    const previews = this.preview && key.includes("t") ? [moving] : [];
    const [preview] = prepare(previews, DASHES.t, "class", this.context.classes);
    return {
      tiles: this.tiles,
      boxes: isFirst ? [...boxes, ...this.marks] : boxes,
      selected: preview && !this.tool.isAdding ? null : selected,
      editable: this.isEditing && selected !== undefined && this.selectedObject !== null,
      labels: now.labels !== "0",
      preview,
    };
  }

  toggleMode() {
    const { state } = this.context;
    state.set({ mode: state.now.mode === "side" ? "overlay" : "side" });
  }

  request() {
    for (const viewer of this.viewers) viewer.request();
  }

  cameraMoved() {
    this.request();
    if (!this.camera) return;
    this.zoomText.textContent = `${Math.round(this.camera.scale * 100)} %`;
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      const { state } = this.context;
      if (state.now.view === "image" && state.now.place !== this.camera.place) state.set({ place: this.camera.place });
    }, 400);
  }

  select(id, isFromList = false) {
    this.selected = id;
    const one = this.selectedBox;
    if (one && isFromList) this.camera.show(one.box);
    if (one) announce(`${one.label}${one.status ? `, ${one.status}` : ""}`);
    this.list.mark();
    this.editor.update();
    this.request();
  }

  zoomToSelected() {
    const one = this.selectedBox;
    if (one) this.camera.show(one.box, true);
  }

  /** Show the image's position among the images that match the filters. */
  async locate() {
    const { state } = this.context;
    // Without filters, ids are positions.
    if (state.now.at === "" && !this.context.isFiltered()) return state.set({ at: state.now.id });
    const at = Number(state.now.at);
    const text = filterText(state.now, FILTERS);
    try {
      const answer = await get("images", { ...state.filter(), offset: at || 0, limit: 1 });
      this.total = answer.total;
      const isThere = state.now.at !== "" && String(answer.images[0]?.id) === state.now.id;
      this.position.textContent = `${isThere ? at + 1 : "–"} / ${answer.total.toLocaleString("en")}`;
      this.position.title = text ? `Among the images with ${text}` : "Among all images";
      this.previous.disabled = isThere && at === 0;
      this.next.disabled = isThere && at + 1 >= answer.total;
    } catch (error) {
      showError(error);
    }
    return undefined;
  }

  /** Show the next or previous image that matches the filters. */
  async go(step) {
    const { state } = this.context;
    const at = state.now.at === "" ? (step > 0 ? 0 : -1) : Number(state.now.at) + step;
    if (at < 0 || (this.total && at >= this.total)) return announce("There are no more images.");
    try {
      const answer = await get("images", { ...state.filter(), offset: at, limit: 1 });
      if (answer.images.length) state.set({ id: String(answer.images[0].id), at: String(at), place: "" });
    } catch (error) {
      showError(error);
    }
    return undefined;
  }
}
