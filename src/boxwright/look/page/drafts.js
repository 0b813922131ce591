// Unsaved changes of labels. They are kept when another image is shown, and written by Save.
import { showNotice } from "./messages.js";

/** Boxes of one image with unsaved changes. Boxes are never modified, only replaced. */
class Draft {
  constructor(answer) {
    this.added = 0;
    this.isSaving = false;
    this.reset(answer);
  }

  /** Start from the labels as they are in the files. */
  reset(answer) {
    this.revision = answer.revision;
    this.saved = this.boxes = answer.objects;
    this.accepted = []; // ids of findings whose suggestion is among the changes
    this.past = [];
  }

  /** Changes for `api/images/ID/objects`. */
  get changes() {
    const before = new Map(this.saved.map((one) => [one.id, one]));
    const after = new Set(this.boxes.map((one) => one.id));
    const found = [];
    for (const one of this.boxes) {
      const old = before.get(one.id);
      const content = { box: one.box, class: one.class };
      if (!old) found.push({ action: "add", ...content });
      else if (old !== one && (String(old.box) !== String(one.box) || old.class !== one.class)) {
        found.push({ action: "set", id: one.id, ...content });
      }
    }
    for (const one of this.saved) if (!after.has(one.id)) found.push({ action: "delete", id: one.id });
    return found;
  }

  apply(boxes, accepted = this.accepted) {
    if (this.isSaving) return showNotice("The changes are being saved; change boxes when that is done.");
    this.past.push([this.boxes, this.accepted]);
    [this.boxes, this.accepted] = [boxes, accepted];
    return undefined;
  }

  undo() {
    if (!this.past.length || this.isSaving) return false;
    [this.boxes, this.accepted] = this.past.pop();
    return true;
  }

  set(id, change, accepted) {
    const boxes = this.boxes.map((one) => (one.id === id ? { ...one, ...change, status: null } : one));
    this.apply(boxes, accepted);
  }

  remove(id, accepted) {
    this.apply(this.boxes.filter((one) => one.id !== id), accepted);
  }

  /** Add a box. Returns its id, which is valid until it is saved. */
  add(box, name, accepted) {
    this.added += 1;
    const id = `new ${this.added}`;
    this.apply([...this.boxes, { id, box, class: name, crowd: false, difficult: false, status: null }], accepted);
    return id;
  }
}

export class Drafts {
  constructor(onchange) {
    this.byImage = new Map();
    this.onchange = onchange;
    addEventListener("beforeunload", (event) => {
      if (this.changed.length) event.preventDefault();
    });
  }

  /** The draft of an image, with unsaved changes if there are any. */
  open(answer) {
    const id = String(answer.id);
    for (const other of this.byImage.keys()) if (!this.isChanged(other)) this.byImage.delete(other);
    if (!this.isChanged(id)) this.byImage.set(id, new Draft(answer));
    return this.byImage.get(id);
  }

  get(id) {
    return this.byImage.get(String(id));
  }

  isChanged(id) {
    return (this.get(id)?.changes.length ?? 0) > 0;
  }

  /** The ids of images with unsaved changes. */
  get changed() {
    return [...this.byImage.keys()].filter((id) => this.isChanged(id));
  }

  /** Forget the changes of an image. */
  drop(id) {
    this.byImage.delete(String(id));
    this.onchange();
  }
}
