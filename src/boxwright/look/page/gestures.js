// Pointers on a pane: pan, pinch, wheel, selection, and the drags that change boxes.

const CLICK = 4; // CSS px that the pointer may move during a click

/**
 * Handle the pointers of a viewer.
 *
 * @param viewer The pane.
 * @param tool   {begin(viewer, point, isFinger): drag or null, click(viewer, point), cursor(viewer, point): text};
 *               a drag has move(point), end() and cancel(); points are CSS px of the canvas.
 */
export function listen(viewer, tool) {
  const { canvas, camera } = viewer;
  const pointers = new Map();
  let drag = null;
  let start = null;
  let moved = false;

  function stopDrag() {
    drag?.cancel();
    drag = null;
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button > 1) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, viewer.at(event));
    if (pointers.size > 1) {
      stopDrag();
      moved = true;
      return;
    }
    start = viewer.at(event);
    moved = false;
    if (event.button === 0 && !event.ctrlKey) drag = tool.begin(viewer, start, event.pointerType === "touch");
  });

  canvas.addEventListener("pointermove", (event) => {
    const point = viewer.at(event);
    if (!pointers.has(event.pointerId)) {
      canvas.style.cursor = tool.cursor(viewer, point);
      return;
    }
    const before = pointers.get(event.pointerId);
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    if (!moved && Math.hypot(point[0] - start[0], point[1] - start[1]) < CLICK) return;
    pointers.set(event.pointerId, point);
    if (other) {
      const [distance, wide] = [before, point].map(([x, y]) => Math.hypot(x - other[0], y - other[1]));
      camera.pan((point[0] - before[0]) / 2, (point[1] - before[1]) / 2);
      camera.zoom(wide / Math.max(1, distance), (point[0] + other[0]) / 2, (point[1] + other[1]) / 2);
    } else if (drag) {
      drag.move(point);
    } else {
      canvas.style.cursor = "grabbing";
      camera.pan(point[0] - before[0], point[1] - before[1]);
    }
    moved = true;
  });

  function up(event) {
    if (!pointers.delete(event.pointerId) || pointers.size) return;
    if (event.type === "pointercancel") stopDrag();
    else if (drag && moved) drag.end();
    else if (!moved && event.button === 0) {
      stopDrag();
      tool.click(viewer, viewer.at(event));
    }
    drag = null;
    canvas.style.cursor = tool.cursor(viewer, viewer.at(event));
  }
  canvas.addEventListener("pointerup", up);
  canvas.addEventListener("pointercancel", up);
  canvas.addEventListener("dblclick", (event) => camera.zoom(2, ...viewer.at(event)));
  canvas.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode === 1 ? 20 : 1; // Firefox counts lines
      camera.zoom(Math.exp((-event.deltaY * lines) / 400), ...viewer.at(event));
    },
    { passive: false },
  );
}
