// One pane: the image with boxes on a canvas, drawn when something has changed, at most once per frame.
import { drawBoxes, drawSelected, handlePoints, HANDLES } from "./draw.js";
import { el } from "./dom.js";

const NEAR = 8; // CSS px from a handle; twice that for fingers

export class Viewer {
  /** key: key of its layer. content(): {tiles, boxes, selected, editable, labels, preview}, read at each frame. */
  constructor(key, camera, content) {
    Object.assign(this, { key, camera, content });
    this.canvas = el("canvas", { class: "view", role: "img" });
    this.times = this.canvas.drawTimes = []; // ms of the latest frames
    this.caption = el("figcaption");
    this.element = el("figure", { class: "pane" }, this.caption, this.canvas);
    this.watcher = new ResizeObserver(() => this.resize());
    this.watcher.observe(this.canvas);
  }

  stop() {
    this.watcher.disconnect();
    cancelAnimationFrame(this.frame);
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    this.ratio = Math.min(2, devicePixelRatio || 1);
    this.canvas.width = Math.round(width * this.ratio);
    this.canvas.height = Math.round(height * this.ratio);
    this.camera.resize(width, height);
    this.draw(); // immediately, since resizing clears a canvas
  }

  request() {
    if (!this.frame) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.draw();
      });
    }
  }

  draw() {
    const begin = performance.now();
    const { tiles, boxes, selected, editable, labels, preview } = this.content(this.key);
    const context = this.canvas.getContext("2d");
    const view = this.camera.view();
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, view.width, view.height);
    tiles.draw(context, view, this.ratio);
    drawBoxes(context, boxes, view, labels);
    if (selected) drawSelected(context, selected, view, editable);
    if (preview) drawSelected(context, preview, view, false);
    this.times.push(performance.now() - begin);
    if (this.times.length > 240) this.times.shift();
  }

  /** Position of a pointer in CSS px of the canvas. */
  at(event) {
    const frame = this.canvas.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  }

  /** The names of the sides that a handle at this point moves, of the selected box; null if there is none. */
  handleAt([px, py], box, isFinger) {
    const reach = isFinger ? 2 * NEAR : NEAR;
    const points = handlePoints(box, this.camera.view());
    let best = null;
    points.forEach(([x, y], index) => {
      const distance = Math.max(Math.abs(x - px), Math.abs(y - py));
      if (distance <= reach && distance < (best?.distance ?? Infinity)) best = { distance, sides: HANDLES[index] };
    });
    return best?.sides ?? null;
  }

  /** Boxes at this point, the smallest first. */
  boxesAt([px, py], boxes) {
    const [x, y] = this.camera.toImage(px, py);
    const margin = 3 / this.camera.scale;
    const area = ({ box: [x1, y1, x2, y2] }) => (x2 - x1) * (y2 - y1);
    return boxes
      .filter(({ box }) => box[0] - margin <= x && x <= box[2] + margin && box[1] - margin <= y && y <= box[3] + margin)
      .sort((one, other) => area(one) - area(other));
  }
}
