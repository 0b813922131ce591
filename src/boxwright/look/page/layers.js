// Layers of an image: ground truth, runs A and B, findings.
import { FINDING, classColor } from "./colors.js";
import { DASHES, prepare } from "./draw.js";

export const KINDS = {
  missing: "missing box", spurious: "box without an object", class: "wrong class", location: "badly placed box",
};

/**
 * The layers that are shown, in order.
 *
 * @param answer  Response of `api/images/ID`.
 * @param objects The ground truth, which differs from the response's while it is edited.
 * @param state   The state of the page.
 * @param classes Map from class to number.
 * @returns [{key, title, boxes}], boxes from `prepare`.
 */
export function layersOf(answer, objects, state, classes) {
  const found = [];
  const isApart = state.view === "image" && state.mode === "side"; // then line styles need not distinguish layers
  const dash = (key) => (isApart ? [] : DASHES[key]);
  if (state.layers.includes("t")) {
    found.push({ key: "t", title: "Ground truth", boxes: prepare(objects, dash("t"), state.color, classes) });
  }
  for (const key of ["a", "b"]) {
    const run = state[key];
    if (!run || !state.layers.includes(key) || (key === "b" && run === state.a)) continue;
    const boxes = prepare(answer.detections?.[run] ?? [], dash(key), state.color, classes);
    found.push({ key, title: run, boxes: boxes.map((one, index) => ({ ...one, id: `${key}${index}` })) });
  }
  return found;
}

/** The boxes of open findings. */
export function findingBoxes(findings, classes) {
  return findings
    .filter((one) => one.state === "open" && (one.suggested_box ?? one.box))
    .map((one) => ({
      id: `f${one.id}`,
      box: one.suggested_box ?? one.box,
      color: FINDING,
      dash: DASHES.f,
      label: `${KINDS[one.kind] ?? one.kind}${one.suggested_class ? `: ${one.suggested_class}` : ""}`,
      swatch: classColor(classes.get(one.suggested_class) ?? -1),
    }));
}

/** Number of boxes of each status that is an error, for one run: [[status, number], ...]. */
export function errorCounts(answer, run) {
  const counts = new Map();
  const add = (status) => counts.set(status, (counts.get(status) ?? 0) + 1);
  for (const one of answer.detections?.[run] ?? []) if (one.status && !PLAIN.has(one.status)) add(one.status);
  for (const one of answer.objects) if (one.status === "missed") add("missed");
  return [...counts].sort();
}

const PLAIN = new Set(["correct", "ignored", "not counted"]);
