// State of the page in the fragment of the address, so that it survives reloading, bookmarks and going back.

const DEFAULTS = {
  view: "images", // images, image, runs
  id: "", // of the image
  at: "", // its position in the filtered list
  split: "",
  class: "",
  size: "",
  status: "",
  finding: "",
  score: "0.25",
  a: "",
  b: "",
  layers: "tabf", // t: ground truth, a and b: runs, f: findings
  mode: "overlay", // overlay, side
  color: "class", // class, status
  labels: "1",
  tile: "200", // width of a thumbnail in px
  place: "", // center and scale of the image
  metric: "AP",
  loss: "loss",
};

/** Names of the filters of the list of images. */
export const FILTERS = ["split", "class", "size", "status", "finding"];

export class State {
  /** known: defaults that depend on the set. onchange(now, before) is called after each change. */
  constructor(known, onchange) {
    this.defaults = { ...DEFAULTS, ...known };
    this.onchange = onchange;
    this.now = this.read();
    addEventListener("hashchange", () => this.change(this.read()));
  }

  read() {
    const found = { ...this.defaults };
    for (const [name, value] of new URLSearchParams(location.hash.slice(1))) if (name in found) found[name] = value;
    for (const name of ["id", "at"]) if (!/^\d*$/.test(found[name])) found[name] = "";
    const views = found.id ? ["images", "image", "runs"] : ["images", "runs"];
    if (!views.includes(found.view)) found.view = "images";
    return found;
  }

  /** Fragment of the current state with changes. */
  link(changes) {
    const query = new URLSearchParams();
    for (const [name, value] of Object.entries({ ...this.now, ...changes })) {
      if (value !== this.defaults[name]) query.append(name, value);
    }
    return `#${query}`;
  }

  /** Change the state; a step in the browser's history if another image or view is shown. */
  set(changes) {
    const after = { ...this.now, ...changes };
    const step = after.view !== this.now.view || after.id !== this.now.id;
    history[step ? "pushState" : "replaceState"](null, "", this.link(changes));
    this.change(after);
  }

  change(after) {
    const before = this.now;
    this.now = after;
    this.onchange(after, before);
  }

  /** Parameters of `api/images`. */
  filter() {
    const { split, class: name, size, status, finding, a, score } = this.now;
    const of_run = status && a ? { status, run: a, min_score: score } : {};
    return { split, class: name, size, finding, ...of_run };
  }

  /** Parameters of `api/images/ID`. */
  detail() {
    const runs = [this.now.a, this.now.b].filter((run, place, all) => run && all.indexOf(run) === place);
    return { run: runs, min_score: runs.length ? this.now.score : "" };
  }
}
