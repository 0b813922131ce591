// Visible part of an image, and its scale. All panes of an image share one camera.

const MAX_SCALE = 40; // CSS px per image px

export class Camera {
  /** The center (x, y) in image px; scale: CSS px per image px. */
  constructor(width, height, onchange) {
    this.image = { width, height };
    this.pane = { width: 1, height: 1 };
    this.isFit = true;
    this.onchange = onchange;
    this.fit();
  }

  get smallest() {
    const { image, pane } = this;
    return Math.min(pane.width / image.width, pane.height / image.height) * 0.98;
  }

  resize(width, height) {
    if (!width || !height) return;
    this.pane = { width, height };
    if (this.isFit) this.fit();
    else this.changed();
  }

  fit() {
    this.isFit = true;
    this.scale = Math.min(this.smallest, MAX_SCALE);
    this.x = this.image.width / 2;
    this.y = this.image.height / 2;
    this.onchange();
  }

  changed() {
    this.isFit = false;
    this.scale = Math.max(Math.min(this.smallest, 1), Math.min(MAX_SCALE, this.scale));
    this.x = Math.max(0, Math.min(this.image.width, this.x));
    this.y = Math.max(0, Math.min(this.image.height, this.y));
    this.onchange();
  }

  /** Zoom so that the point (px, py), in CSS px of the pane, stays where it is. */
  zoom(factor, px = this.pane.width / 2, py = this.pane.height / 2) {
    const [x, y] = this.toImage(px, py);
    this.scale = Math.max(Math.min(this.smallest, 1), Math.min(MAX_SCALE, this.scale * factor));
    this.x = x - (px - this.pane.width / 2) / this.scale;
    this.y = y - (py - this.pane.height / 2) / this.scale;
    this.changed();
  }

  /** Move the image by CSS px. */
  pan(dx, dy) {
    this.x -= dx / this.scale;
    this.y -= dy / this.scale;
    this.changed();
  }

  toImage(px, py) {
    return [this.x + (px - this.pane.width / 2) / this.scale, this.y + (py - this.pane.height / 2) / this.scale];
  }

  /** View as in `drawBoxes`. */
  view() {
    const { width, height } = this.pane;
    return {
      scale: this.scale, dx: width / 2 - this.x * this.scale, dy: height / 2 - this.y * this.scale, width, height,
    };
  }

  /** Move, if needed, so that a box is visible; close: also zoom to it. */
  show([x1, y1, x2, y2], close = false) {
    const { width, height } = this.pane;
    if (close) {
      const fits = Math.min(width / Math.max(1, x2 - x1), height / Math.max(1, y2 - y1)) * 0.5;
      this.scale = Math.min(MAX_SCALE / 2, fits);
    }
    const view = this.view();
    const isSeen =
      x1 * view.scale + view.dx >= 0 && x2 * view.scale + view.dx <= width &&
      y1 * view.scale + view.dy >= 0 && y2 * view.scale + view.dy <= height;
    if (isSeen && !close) return;
    this.x = (x1 + x2) / 2;
    this.y = (y1 + y2) / 2;
    this.changed();
  }

  /** Text for the fragment; "" if the whole image is visible. */
  get place() {
    return this.isFit ? "" : [this.x, this.y, this.scale].map((value) => +value.toPrecision(6)).join(",");
  }

  set place(text) {
    const [x, y, scale] = text.split(",").map(Number);
    if (![x, y, scale].every(Number.isFinite) || scale <= 0) return;
    Object.assign(this, { x, y, scale });
    this.changed();
  }
}
