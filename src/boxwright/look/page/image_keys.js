// Keyboard shortcuts of the view of one image.

const DIGITS = [..."123456789"];

/** view(): the ImageView that is shown. Rows as in `setKeys`. */
export function imageKeys(view, toggleLayer) {
  const arrow = (dx, dy, step) => () => {
    if (view().nudge(dx, dy, false)) return true;
    if (dx && step) view().go(dx);
    else if (dy && step) view().list.step(dy);
    return true;
  };
  const rows = [
    [["ArrowLeft", "ArrowRight"], "previous, next image; a box that is selected for editing is moved by 1 px",
      [arrow(-1, 0, 1), arrow(1, 0, 1)]],
    [["ArrowUp", "ArrowDown"], "previous, next box; a box that is selected for editing is moved by 1 px",
      [arrow(0, -1, 1), arrow(0, 1, 1)]],
    [["Shift+ArrowLeft", "Shift+ArrowRight", "Shift+ArrowUp", "Shift+ArrowDown"], "move the box by 10 px",
      [arrow(-10, 0), arrow(10, 0), arrow(0, -10), arrow(0, 10)]],
    [["Alt+ArrowLeft", "Alt+ArrowRight", "Alt+ArrowUp", "Alt+ArrowDown"], "resize the box by 1 px",
      [[-1, 0], [1, 0], [0, -1], [0, 1]].map(([dx, dy]) => () => view().nudge(dx, dy, true))],
    [["PageUp", "PageDown"], "previous, next image, always", [() => view().go(-1), () => view().go(1)]],
    [["Escape"], "stop adding, deselect, then back to the images", [() => escape(view())]],
    [["+", "-", "0"], "zoom in, zoom out, whole image",
      [() => view().camera.zoom(1.5), () => view().camera.zoom(1 / 1.5), () => view().camera.fit()]],
    [["z"], "zoom to the selected box", [() => view().zoomToSelected()]],
    [["g", "a", "b", "f"], "show or hide ground truth, run A, run B, findings",
      [() => toggleLayer("t"), () => toggleLayer("a"), () => toggleLayer("b"), () => toggleLayer("f")]],
    [["m"], "overlay or side by side", [() => view().toggleMode()]],
    [["e"], "edit boxes", [() => view().setEditing(!view().isEditing)]],
    [["n"], "add a box (Enter: in the center)", [() => view().setAdding(true)]],
    [["Enter"], "add the box in the center", [() => (view().tool.isAdding ? view().addInCenter() : false)]],
    [["c"], "choose the class of the selected box", [() => view().editor.element.querySelector("select")?.focus()]],
    [DIGITS, "give the selected box the class of this number", DIGITS.map((digit) => () => {
      const name = view().context.set.classes[Number(digit) - 1];
      if (name !== undefined) view().change({ class: name });
    })],
    [["k"], "copy the selected detection to the ground truth", [() => view().copy()]],
    [["Delete", "Backspace"], "delete the selected box", [() => view().remove(), () => view().remove()]],
    [["Ctrl+z"], "undo", [() => view().undo()]],
    [["Ctrl+s"], "save", [() => view().save()]],
  ];
  const isReady = (key) => view().answer !== null || key === "Escape"; // there is no image before the first answer
  const run = (keys, runs) => (event, place) => (isReady(keys[place]) ? runs[place]() : false);
  return rows.map(([keys, what, runs]) => [keys, what, run(keys, runs)]);
}

function escape(view) {
  if (view.tool.isAdding) view.setAdding(false);
  else if (view.selected !== null) view.select(null);
  else view.back.click();
}
