// Boxes on a canvas. A layer's boxes are prepared once (`prepare`); each frame draws the visible ones.
import { classColor, statusColor } from "./colors.js";

export const DASHES = { t: [], a: [7, 4], b: [2, 3], f: [10, 3, 2, 3] };
const MAX_LABELS = 250; // with more boxes, and on boxes narrower than this (px), labels only hide the image
const MIN_LABEL_WIDTH = 22;
const FONT = "600 11px system-ui, sans-serif";
const widths = new Map(); // text -> px in FONT

/** Colors and labels of boxes. classes: Map from the name of a class to its number. */
export function prepare(boxes, dash, color, classes) {
  return boxes.map((one) => ({
    ...one,
    source: one,
    dash,
    color: color === "status" && one.status ? statusColor(one.status) : classColor(classes.get(one.class) ?? -1),
    label: one.label ?? labelOf(one, color),
  }));
}

function labelOf(one, color) {
  const score = typeof one.score === "number" ? ` ${one.score.toFixed(2)}` : "";
  const status = color === "status" && one.status && one.status !== "correct" ? ` ${one.status}` : "";
  return `${one.class ?? "ignore region"}${score}${status}`;
}

/** Whether a box, in image px, is in the visible part of the image. */
function isSeen([x1, y1, x2, y2], seen) {
  return x2 >= seen[0] && x1 <= seen[2] && y2 >= seen[1] && y1 <= seen[3];
}

/**
 * Draw prepared boxes.
 *
 * @param context 2D context, in CSS px.
 * @param boxes   From `prepare`.
 * @param view    {scale, dx, dy}: image px times scale plus (dx, dy) are CSS px; width, height: of the canvas.
 * @param labels  Whether to draw labels.
 * @param width   Line width in px.
 * @param margin  Margin of the dark line below the colored one, in px; 0 for none.
 */
export function drawBoxes(context, boxes, view, labels, width = 1.75, margin = 1.5) {
  const { scale, dx, dy } = view;
  const seen = [-dx / scale, -dy / scale, (view.width - dx) / scale, (view.height - dy) / scale];
  const visible = boxes.filter((one) => isSeen(one.box, seen));
  const groups = new Map(); // one path for all boxes of a color and a kind of line
  for (const one of visible) {
    const key = `${one.color}|${one.dash}`;
    if (!groups.has(key)) groups.set(key, []);
    groups.get(key).push(one);
  }
  const isDark = margin > 0 && visible.length <= 400;
  context.lineJoin = "round";
  for (const group of groups.values()) {
    context.beginPath();
    for (const { box: [x1, y1, x2, y2] } of group) {
      context.rect(x1 * scale + dx, y1 * scale + dy, (x2 - x1) * scale, (y2 - y1) * scale);
    }
    context.setLineDash(group[0].dash);
    if (isDark) {
      context.strokeStyle = "rgba(0, 0, 0, 0.5)";
      context.lineWidth = width + margin;
      context.stroke();
    }
    context.strokeStyle = group[0].color;
    context.lineWidth = width;
    context.stroke();
  }
  context.setLineDash([]);
  if (labels && visible.length <= MAX_LABELS) drawLabels(context, visible, view);
}

/** Labels that do not cover each other, those of errors first. */
function drawLabels(context, boxes, view) {
  const taken = [];
  const wide = boxes.filter(({ box: [x1, , x2] }) => (x2 - x1) * view.scale >= MIN_LABEL_WIDTH);
  const isError = (one) => Number(Boolean(one.status) && one.status !== "correct");
  for (const one of wide.sort((a, b) => isError(b) - isError(a))) drawLabel(context, one, view, taken);
}

/** The text of a box on its upper edge, within the canvas; taken: rectangles of labels that it must not cover. */
function drawLabel(context, one, view, taken = []) {
  const [x1, y1] = one.box;
  context.font = FONT;
  if (!widths.has(one.label)) {
    if (widths.size > 5000) widths.clear();
    widths.set(one.label, context.measureText(one.label).width);
  }
  const width = widths.get(one.label) + 8;
  const top = y1 * view.scale + view.dy;
  const x = Math.max(0, Math.min(x1 * view.scale + view.dx, view.width - width));
  const y = top >= 15 ? top - 15 : Math.max(0, top);
  if (taken.some(([u, v, w]) => x < u + w && u < x + width && Math.abs(y - v) < 15)) return;
  taken.push([x, y, width]);
  context.fillStyle = one.color;
  context.fillRect(x, y, width, 15);
  context.fillStyle = "#000000";
  context.textBaseline = "middle";
  context.fillText(one.label, x + 4, y + 8);
}

export const HANDLES = [
  ["x1", "y1"], ["", "y1"], ["x2", "y1"], ["x2", ""], ["x2", "y2"], ["", "y2"], ["x1", "y2"], ["x1", ""],
];

/** Positions of the handles of a box in CSS px, one for each of `HANDLES`. */
export function handlePoints([x1, y1, x2, y2], { scale, dx, dy }) {
  const xs = { x1, "": (x1 + x2) / 2, x2 };
  const ys = { y1, "": (y1 + y2) / 2, y2 };
  return HANDLES.map(([x, y]) => [xs[x] * scale + dx, ys[y] * scale + dy]);
}

/** The selected box: a thick line, its label, and handles where it can be changed. */
export function drawSelected(context, one, view, editable) {
  const { scale, dx, dy } = view;
  const [x1, y1, x2, y2] = one.box;
  const rect = [x1 * scale + dx, y1 * scale + dy, (x2 - x1) * scale, (y2 - y1) * scale];
  context.setLineDash([]);
  context.fillStyle = "rgba(255, 255, 255, 0.14)";
  context.fillRect(...rect);
  context.strokeStyle = "#000000";
  context.lineWidth = 5;
  context.strokeRect(...rect);
  context.strokeStyle = one.color;
  context.lineWidth = 3;
  context.setLineDash(one.dash);
  context.strokeRect(...rect);
  context.setLineDash([]);
  drawLabel(context, one, view);
  if (!editable) return;
  context.lineWidth = 1.5;
  for (const [x, y] of handlePoints(one.box, view)) {
    context.fillStyle = "#ffffff";
    context.fillRect(x - 4, y - 4, 8, 8);
    context.strokeStyle = "#000000";
    context.strokeRect(x - 4, y - 4, 8, 8);
  }
}
