// Findings of an audit in one image: accept (the suggestion becomes an unsaved change), dismiss, open again.
import { post } from "./api.js";
import { el, fill, section } from "./dom.js";
import { iou } from "./geometry.js";
import { KINDS } from "./layers.js";
import { showError, showNotice } from "./messages.js";

export class Findings {
  constructor(view) {
    this.view = view;
    this.body = el("div");
    this.element = section("Findings", true, this.body);
  }

  update() {
    const findings = this.view.answer?.findings ?? [];
    this.element.hidden = !findings.length;
    this.element.firstChild.textContent = `Findings (${findings.filter((one) => one.state === "open").length} open)`;
    fill(this.body, findings.map((one) => this.row(one)));
  }

  row(one) {
    const { view } = this;
    const pending = view.draft.accepted.includes(one.id);
    const state = pending ? "accepted, not saved" : one.state;
    const button = (text, onclick) =>
      el("button", { type: "button", onclick, "aria-label": `${text} finding ${one.id}` }, text);
    const suggestion = one.suggested_class && one.suggested_class !== one.class ? ` → ${one.suggested_class}` : "";
    return el(
      "div",
      { class: `finding ${one.state}` },
      el(
        "button",
        { type: "button", class: "plain name", onclick: () => this.show(one) },
        `${KINDS[one.kind] ?? one.kind}: ${one.class ?? ""}${suggestion}`,
      ),
      el("span", { class: "muted" }, `${Number(one.score).toFixed(2)} · ${state}`),
      el(
        "span",
        { class: "buttons" },
        one.state === "open" && !pending && button("Accept", () => this.accept(one)),
        one.state === "open" && !pending && button("Dismiss", () => this.set(one, "dismissed")),
        one.state !== "open" && button("Reopen", () => this.set(one, "open")),
      ),
    );
  }

  show(one) {
    const box = one.suggested_box ?? one.box;
    const object = this.object(one);
    if (object) this.view.select(object.id);
    if (box) this.view.camera.show(box, true);
  }

  /** The labeled box that a finding is about. */
  object(one) {
    const { boxes } = this.view.draft;
    const same = boxes.find((box) => box.id === one.object);
    if (same || one.kind === "missing" || !one.box) return same ?? null;
    const overlaps = boxes.map((box) => [iou(box.box, one.box), box]).sort(([a], [b]) => b - a);
    return overlaps.length && overlaps[0][0] > 0.9 ? overlaps[0][1] : null;
  }

  accept(one) {
    const { view } = this;
    if (view.reason) return this.set(one, "accepted");
    const accepted = [...view.draft.accepted, one.id];
    const box = one.suggested_box ?? one.box;
    const object = this.object(one);
    if (one.kind !== "missing" && !object) {
      return showError("The box of this finding is not in the labels any more; dismiss the finding.");
    }
    view.setEditing(true);
    if (one.kind === "missing") view.selected = view.draft.add(box, one.suggested_class ?? view.newClass, accepted);
    else if (one.kind === "spurious") view.draft.remove(object.id, accepted);
    else {
      const change = {
        ...(one.suggested_class && { class: one.suggested_class }),
        ...(one.suggested_box && { box: one.suggested_box }),
      };
      view.draft.set(object.id, change, accepted);
      view.selected = object.id;
    }
    view.changed();
    showNotice("The suggestion is applied to the boxes. It is not saved yet.");
    return undefined;
  }

  async set(one, state) {
    try {
      await post(`findings/${one.id}`, { state });
      one.state = state;
      this.view.refreshFindings();
    } catch (error) {
      showError(error);
    }
  }
}
