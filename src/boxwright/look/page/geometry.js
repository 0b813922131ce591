// Boxes [x1, y1, x2, y2] in image px.

const SMALLEST = 1; // px of a side

function limit(value, low, high) {
  return Math.min(high, Math.max(low, value));
}

/** Round to tenths of a pixel, the precision of a pointer. */
function tenth(value) {
  return Math.round(value * 10) / 10;
}

/** The box moved, within the image. */
export function moved([x1, y1, x2, y2], dx, dy, { width, height }) {
  const x = limit(dx, -x1, width - x2);
  const y = limit(dy, -y1, height - y2);
  return [x1 + x, y1 + y, x2 + x, y2 + y].map(tenth);
}

/** The box with some sides ("x1", "y1", "x2", "y2") moved, within the image and no smaller than a pixel. */
export function resized(box, changes, { width, height }) {
  let [x1, y1, x2, y2] = box;
  if ("x1" in changes) x1 = limit(tenth(changes.x1), 0, x2 - SMALLEST);
  if ("y1" in changes) y1 = limit(tenth(changes.y1), 0, y2 - SMALLEST);
  if ("x2" in changes) x2 = limit(tenth(changes.x2), x1 + SMALLEST, width);
  if ("y2" in changes) y2 = limit(tenth(changes.y2), y1 + SMALLEST, height);
  return [x1, y1, x2, y2];
}

/** The box between two points, or null if it is too small. */
export function between([x, y], [u, v], { width, height }) {
  const [x1, x2] = [Math.min(x, u), Math.max(x, u)].map((value) => tenth(limit(value, 0, width)));
  const [y1, y2] = [Math.min(y, v), Math.max(y, v)].map((value) => tenth(limit(value, 0, height)));
  return x2 - x1 >= SMALLEST && y2 - y1 >= SMALLEST ? [x1, y1, x2, y2] : null;
}

export function iou([a, b, c, d], [e, f, g, h]) {
  const inter = Math.max(0, Math.min(c, g) - Math.max(a, e)) * Math.max(0, Math.min(d, h) - Math.max(b, f));
  const union = (c - a) * (d - b) + (g - e) * (h - f) - inter;
  return union > 0 ? inter / union : 0;
}
