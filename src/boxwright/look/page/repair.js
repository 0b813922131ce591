// Repair of labels: changes, undo, Save. Nothing is written before Save is pressed.
import { post } from "./api.js";
import { describe } from "./box_list.js";
import { forget } from "./details.js";
import { count } from "./dom.js";
import { moved, resized } from "./geometry.js";
import { announce, clear, showError, showNotice } from "./messages.js";

/** Actions on boxes in the view of an image. */
export class Repair {
  constructor(context) {
    this.context = context;
    this.newClass = context.state.now.class || context.set.classes[0];
    this.preview = null;
  }

  setEditing(on) {
    const { state } = this.context;
    if (on && this.reason) return showError(this.reason);
    this.isEditing = on;
    if (!on) this.setAdding(false);
    if (on && !state.now.layers.includes("t")) state.set({ layers: `t${state.now.layers}` });
    this.edit.setAttribute("aria-pressed", String(on));
    this.editor.update();
    this.updateButtons();
    this.request();
    return undefined;
  }

  setAdding(on) {
    if (on) this.setEditing(true);
    this.tool.isAdding = on && this.isEditing;
    this.addButton.setAttribute("aria-pressed", String(this.tool.isAdding));
    if (!this.tool.isAdding) return;
    this.list.list.focus({ preventScroll: true }); // not the button, which would handle Enter
    announce("Drag in the image to add a box; Enter adds one in the center.");
  }

  setPreview(box) {
    this.preview = box;
    this.request();
  }

  add(box, name = this.newClass) {
    this.setAdding(false);
    this.selected = this.draft.add(box, name);
    this.changed();
    announce(`Box added, class ${name}`);
  }

  /** Add a box in the center of the visible part, for users who cannot drag. */
  addInCenter() {
    const { camera, answer } = this;
    const side = Math.min(camera.pane.width, camera.pane.height) / camera.scale / 8;
    const box = [camera.x - side, camera.y - side, camera.x + side, camera.y + side];
    this.add(moved(box.map((value) => Math.max(0, value)), 0, 0, answer));
  }

  /** Add the selected detection as a box of the ground truth. */
  copy() {
    const one = this.selectedBox;
    if (!this.isEditing || !one || this.selectedObject) return;
    this.add(moved(one.box, 0, 0, this.answer), one.class);
  }

  change(change) {
    const one = this.selectedObject;
    if (!one || !this.isEditing) return;
    if (change.class) this.newClass = change.class;
    this.draft.set(one.id, change);
    this.changed();
  }

  changeSide(side, value) {
    const one = this.selectedObject;
    if (one && Number.isFinite(value)) this.change({ box: resized(one.box, { [side]: value }, this.answer) });
    this.editor.update();
  }

  /** Move the selected box, or its right and lower sides, by image px; false if there is none to change. */
  nudge(dx, dy, isResize) {
    const one = this.selectedObject;
    if (!one || !this.isEditing) return false;
    const [, , x2, y2] = one.box;
    const size = this.answer;
    const box = isResize ? resized(one.box, { x2: x2 + dx, y2: y2 + dy }, size) : moved(one.box, dx, dy, size);
    this.change({ box });
    return true;
  }

  remove() {
    const one = this.selectedObject;
    if (!one || !this.isEditing) return;
    this.selected = null;
    this.draft.remove(one.id);
    if (this.editor.element.contains(document.activeElement)) this.list.list.focus(); // the button is removed
    this.changed();
    announce("Box deleted");
  }

  undo() {
    if (this.draft?.undo()) this.changed();
  }

  discard(id = this.answer.id) {
    this.context.drafts.drop(id);
    clear();
    forget(id);
    if (this.answer.id === id) this.load(false);
  }

  /** Update the page after each change of the draft. */
  changed() {
    this.show();
    this.context.drafts.onchange();
  }

  updateButtons() {
    const { changes, past, isSaving } = this.draft ?? { changes: [], past: [] };
    this.addButton.hidden = this.undoButton.hidden = this.discardButton.hidden = !this.isEditing && !changes.length;
    this.saveButton.hidden = this.addButton.hidden;
    this.undoButton.disabled = !past.length || isSaving;
    this.discardButton.disabled = this.saveButton.disabled = !changes.length || isSaving;
    this.saveButton.textContent = changes.length ? `Save (${changes.length})` : "Save";
    this.saveButton.setAttribute("aria-label", `Save (Ctrl+S). ${describe(changes)}`);
  }

  async save() {
    if (document.activeElement?.matches("input")) document.activeElement.blur(); // applies a number that is being typed
    const { draft, answer } = this;
    const { changes, accepted, revision } = draft;
    if (!changes.length || draft.isSaving) return;
    draft.isSaving = true;
    this.updateButtons();
    try {
      draft.reset(await post(`images/${answer.id}/objects`, { revision, changes }));
      forget(answer.id);
      showNotice(`Saved ${count(changes.length, "change")} of ${answer.name}.`);
      for (const id of accepted) await post(`findings/${id}`, { state: "accepted" });
    } catch (error) {
      const reload = ["Load the labels again (discards your changes)", () => this.discard(answer.id)];
      showError(error, error.status === 409 ? [reload] : []);
    }
    draft.isSaving = false;
    this.context.drafts.onchange();
    if (this.answer.id === answer.id) await this.load(false);
  }

  refreshFindings() {
    forget(this.answer.id);
    this.show();
  }
}
