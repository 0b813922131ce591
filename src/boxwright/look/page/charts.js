// Line charts of a few curves, on a canvas.
import { lineColor } from "./colors.js";
import { el, fill, short } from "./dom.js";

const LEFT = 52;
const RIGHT = 10;
const TOP = 10;
const BOTTOM = 22;

/** About `wanted` round numbers from low to high. */
function ticks(low, high, wanted) {
  const rough = (high - low) / Math.max(1, wanted);
  const power = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((value) => value >= rough) ?? power;
  const first = Math.ceil(low / step);
  const count = Math.floor(high / step + 1e-6) - first + 1;
  return Array.from({ length: Math.max(0, count) }, (_, place) => +((first + place) * step).toPrecision(12));
}

export class Chart {
  /** label: what the curves are, for screen readers. */
  constructor(label) {
    this.label = label;
    this.series = [];
    this.canvas = el("canvas", { class: "chart", role: "img", tabindex: "-1" });
    this.readout = el("p", { class: "muted readout" });
    this.element = el("div", {}, this.canvas, this.readout);
    this.canvas.addEventListener("pointermove", (event) => this.point(event));
    this.canvas.addEventListener("pointerleave", () => this.point(null));
    this.watcher = new ResizeObserver(() => this.draw());
    this.watcher.observe(this.canvas);
  }

  stop() {
    this.watcher.disconnect();
  }

  /** series: [{name, index, points: [[x, y], ...]}]; index chooses the color. isLog: of the values' axis. */
  set(series, isLog = false) {
    const isDrawn = ([, y]) => Number.isFinite(y) && (!isLog || y > 0);
    this.series = series.map((one) => ({ ...one, points: one.points.filter(isDrawn) }));
    this.isLog = isLog;
    const last = this.series.filter((one) => one.points.length).map((one) => {
      const [x, y] = one.points.at(-1);
      return `${one.name}: ${short(y, 4)} at step ${x}`;
    });
    this.canvas.setAttribute("aria-label", `${this.label}. ${last.join("; ") || "No values yet."}`);
    this.draw();
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    const ratio = Math.min(2, devicePixelRatio || 1);
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const style = getComputedStyle(this.canvas);
    const [text, line] = [style.color, style.borderTopColor];
    context.font = "11px system-ui, sans-serif";
    context.fillStyle = text;
    const points = this.series.flatMap((one) => one.points);
    if (!points.length) {
      context.fillText("No values yet.", LEFT, height / 2);
      this.axes = null;
      return;
    }
    const value = this.isLog ? Math.log10 : (y) => y;
    const bounds = points.reduce(
      ([a, b, c, d], [x, y]) => [Math.min(a, x), Math.max(b, x), Math.min(c, value(y)), Math.max(d, value(y))],
      [Infinity, -Infinity, Infinity, -Infinity],
    );
    const [x1, , y1] = bounds;
    const x2 = bounds[1] > x1 ? bounds[1] : x1 + 1;
    const margin = (bounds[3] - y1) * 0.05 || Math.abs(y1) * 0.1 || 0.1;
    const [low, high] = [y1 - margin, bounds[3] + margin];
    const toX = (x) => LEFT + ((x - x1) / (x2 - x1)) * (width - LEFT - RIGHT);
    const toY = (y) => height - BOTTOM - ((value(y) - low) / (high - low)) * (height - TOP - BOTTOM);
    this.axes = { toX, toY, x1, x2, width, height };
    context.strokeStyle = line;
    context.lineWidth = 1;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (const tick of ticks(low, high, height / 45)) {
      const y = toY(this.isLog ? 10 ** tick : tick);
      context.beginPath();
      context.moveTo(LEFT, Math.round(y) + 0.5);
      context.lineTo(width - RIGHT, Math.round(y) + 0.5);
      context.stroke();
      context.fillText(String(+(this.isLog ? 10 ** tick : tick).toPrecision(3)), LEFT - 6, y);
    }
    context.textBaseline = "top";
    context.textAlign = "center";
    for (const tick of ticks(x1, x2, width / 110).filter(Number.isInteger)) {
      context.fillText(tick.toLocaleString("en"), Math.min(toX(tick), width - RIGHT - 10), height - BOTTOM + 6);
    }
    for (const one of this.series) this.curve(context, one, toX, toY);
    if (this.hover !== undefined) this.drawHover(context, line);
  }

  curve(context, one, toX, toY) {
    context.strokeStyle = context.fillStyle = lineColor(one.index);
    context.lineWidth = 1.75;
    context.lineJoin = "round";
    context.beginPath();
    for (const [x, y] of one.points) context.lineTo(toX(x), toY(y));
    context.stroke();
    if (one.points.length > 40) return;
    for (const [x, y] of one.points) {
      context.beginPath();
      context.arc(toX(x), toY(y), 2.5, 0, 7);
      context.fill();
    }
  }

  drawHover(context, line) {
    const { toX, toY, height } = this.axes;
    context.strokeStyle = line;
    context.beginPath();
    context.moveTo(toX(this.hover), TOP);
    context.lineTo(toX(this.hover), height - BOTTOM);
    context.stroke();
    for (const [one, [x, y]] of this.near()) {
      context.fillStyle = lineColor(one.index);
      context.beginPath();
      context.arc(toX(x), toY(y), 4, 0, 7);
      context.fill();
    }
  }

  /** The points of all curves nearest to the pointer. */
  near() {
    const closest = (points) =>
      points.reduce((best, point) => (Math.abs(point[0] - this.hover) < Math.abs(best[0] - this.hover) ? point : best));
    return this.series.filter((one) => one.points.length).map((one) => [one, closest(one.points)]);
  }

  point(event) {
    this.hover = undefined;
    if (event && this.axes) {
      const { x1, x2, width } = this.axes;
      const x = event.clientX - this.canvas.getBoundingClientRect().left;
      this.hover = x1 + ((x - LEFT) / (width - LEFT - RIGHT)) * (x2 - x1);
    }
    this.draw();
    const found = this.hover === undefined ? [] : this.near();
    fill(this.readout, found.map(([one, [x, y]]) => el("span", {}, `${one.name}: ${short(y, 4)} (step ${x})`)));
  }
}
