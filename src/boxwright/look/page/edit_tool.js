// Editing boxes by pointer and keys: select, move, resize, add. A drag shows a preview, and is one undo step.
import { between, moved, resized } from "./geometry.js";

export class EditTool {
  /** view: the ImageView. */
  constructor(view) {
    this.view = view;
    this.isAdding = false;
  }

  /** Whether boxes of this pane can be changed now. */
  edits(viewer) {
    return this.view.isEditing && viewer.key.includes("t");
  }

  begin(viewer, point, isFinger) {
    const { view } = this;
    if (!this.edits(viewer)) return null;
    const start = viewer.camera.toImage(...point);
    const size = view.answer;
    if (this.isAdding) {
      return this.drag((to) => between(start, viewer.camera.toImage(...to), size), (box) => view.add(box));
    }
    const one = view.selectedObject;
    if (!one) return null;
    const sides = viewer.handleAt(point, one.box, isFinger);
    const finish = (box) => view.change({ box });
    if (sides) {
      const [x, y] = sides;
      return this.drag((to) => {
        const [px, py] = viewer.camera.toImage(...to);
        return resized(one.box, { ...(x && { [x]: px }), ...(y && { [y]: py }) }, size);
      }, finish);
    }
    const [x, y] = start;
    const [x1, y1, x2, y2] = one.box;
    if (x < x1 || x > x2 || y < y1 || y > y2) return null;
    return this.drag((to) => {
      const [px, py] = viewer.camera.toImage(...to);
      return moved(one.box, px - x, py - y, size);
    }, finish);
  }

  /** boxAt(point): the box that results, or null. */
  drag(boxAt, finish) {
    const { view } = this;
    let box = null;
    return {
      move: (point) => {
        box = boxAt(point);
        view.setPreview(box);
      },
      end: () => {
        view.setPreview(null);
        if (box) finish(box);
      },
      cancel: () => view.setPreview(null),
    };
  }

  click(viewer, point) {
    const { view } = this;
    if (this.isAdding) return;
    const hits = viewer.boxesAt(point, view.boxesOf(viewer.key)).map((one) => one.id);
    const place = hits.indexOf(view.selected);
    view.select(hits.length ? hits[(place + 1) % hits.length] : null); // a second click selects the box behind it
  }

  cursor(viewer, point) {
    if (!this.edits(viewer)) return "grab";
    if (this.isAdding) return "crosshair";
    const one = this.view.selectedObject;
    if (!one) return "grab";
    const sides = viewer.handleAt(point, one.box, false)?.join("");
    if (sides) return CURSORS[sides];
    const [x, y] = viewer.camera.toImage(...point);
    const [x1, y1, x2, y2] = one.box;
    return x >= x1 && x <= x2 && y >= y1 && y <= y2 ? "move" : "grab";
  }
}

const CURSORS = {
  x1y1: "nwse-resize", x2y2: "nwse-resize", x2y1: "nesw-resize", x1y2: "nesw-resize", y1: "ns-resize",
  y2: "ns-resize", x1: "ew-resize", x2: "ew-resize",
};
