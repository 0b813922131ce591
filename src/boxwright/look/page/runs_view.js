// Runs: table, curves (live during training), and metrics with intervals.
import { get } from "./api.js";
import { Chart } from "./charts.js";
import { lineColor } from "./colors.js";
import { checkbox, el, fill, section, select, short } from "./dom.js";
import { showError } from "./messages.js";

const CURVES_EVERY = 2000; // ms
const TABLE_EVERY = 10_000;
const MAX_SHOWN = 8; // curves at first

export class RunsView {
  constructor(main, panel, context) {
    this.context = context;
    this.rows = [];
    this.curves = new Map(); // run -> answer of api/curves
    this.cursor = "";
    this.hidden = null; // names of runs whose curves are not shown
    this.isLog = false;
    this.order = { key: "", isUp: false };
    this.loss = new Chart("Loss by step");
    this.metric = new Chart("Metric by step");
    const choice = (name, label) =>
      select([], "", (value) => context.state.set({ [name]: value }), { "aria-label": label });
    this.lossChoice = choice("loss", "Term of the loss");
    this.metricChoice = choice("metric", "Metric");
    this.table = el("table", { class: "runs" });
    const wide = (label, ...children) => // scrolls sideways, also by keys
      el("div", { class: "wide", role: "region", tabindex: "0", "aria-label": label }, ...children);
    this.metrics = wide("Metrics");
    this.classes = wide("Metrics of classes");
    this.live = el("p", { class: "muted", role: "status" });
    this.message = el("p", { class: "warning", role: "status", hidden: true }); // logs that cannot be read
    fill(
      main,
      el(
        "div", { class: "page", tabindex: "-1" },
        el("h1", {}, "Runs"), this.live, this.message, wide("Table of runs", this.table),
        el(
          "div", { class: "charts" },
          el("section", {}, el("h2", {}, "Loss ", this.lossChoice), this.loss.element),
          el("section", {}, el("h2", {}, "Metric ", this.metricChoice), this.metric.element),
        ),
        el("h2", {}, "Metrics"),
        el("p", { class: "muted" }, "In brackets: 95 % intervals, bootstrap over the images of the evaluation."),
        this.metrics, el("h2", {}, "Classes"), this.classes,
      ),
    );
    this.legend = el("div", { class: "choice" });
    fill(
      panel,
      section("Runs", true, this.legend),
      section("Display", true, checkbox("Logarithmic loss", false, (on) => ((this.isLog = on), this.draw()))),
    );
    this.visible = () => document.visibilityState === "visible" && this.poll();
    document.addEventListener("visibilitychange", this.visible);
    this.readAt = -Infinity;
    this.poll();
  }

  leave() {
    clearTimeout(this.timer);
    this.isLeft = true;
    this.loss.stop();
    this.metric.stop();
    document.removeEventListener("visibilitychange", this.visible);
  }

  update() {
    this.draw();
  }

  /** Poll for new values while the page is visible. */
  async poll() {
    clearTimeout(this.timer);
    if (this.isPolling || this.isLeft) return;
    this.isPolling = true;
    try {
      if (performance.now() - this.readAt > TABLE_EVERY) {
        this.rows = (await get("runs")).runs;
        this.readAt = performance.now();
        this.fillTable();
      }
      const answer = await get("curves", { after: this.cursor });
      this.cursor = answer.cursor ?? "";
      for (const run of answer.runs) this.curves.set(run.name, { ...run, points: run.points.map(flat) });
      if (answer.runs.length && !this.isLeft) this.draw();
      this.failed = false;
    } catch (error) {
      if (!this.failed && !this.isLeft) showError(error);
      this.failed = true;
    }
    this.isPolling = false;
    if (this.isLeft || document.visibilityState !== "visible") return;
    this.timer = setTimeout(() => this.poll(), CURVES_EVERY);
  }

  isShown(name) {
    return !this.hidden?.has(name);
  }

  index(name) {
    return this.rows.findIndex((row) => row.name === name);
  }

  fillTable() {
    if (!this.hidden) this.hidden = new Set(this.rows.slice(MAX_SHOWN).map((row) => row.name));
    const running = this.rows.filter((row) => row.state === "running").length;
    this.live.textContent = this.rows.length
      ? `${this.rows.length} ${this.rows.length === 1 ? "run" : "runs"}${running ? `, ${running} training now` : ""}`
      : "No runs. Start with: boxwright look DATA RUN …, where RUN is a run folder or a folder of runs.";
    const columns = [
      ["name", "Run", (row) => [swatch(this.index(row.name)), row.name]],
      ["state", "State", (row) => row.state],
      ["value", "Metric", (row) => withInterval(row.measure, row.value, row.interval)],
      ["epochs", "Epochs", (row) => (row.epochs === null ? "" : `${row.epochs}/${row.planned ?? "?"}`)],
      ["minutes", "Minutes", (row) => (row.minutes === null ? "" : short(row.minutes, 1))],
      ["recipe", "Recipe", (row) => row.recipe],
      ["data", "Data", (row) => row.data],
      ["", "Other settings than most runs of the recipe", (row) => settings(row.differences)],
    ];
    const { key, isUp } = this.order;
    const rows = [...this.rows];
    if (key) rows.sort((one, other) => compare(one[key], other[key]) * (isUp ? 1 : -1));
    const heading = ([name, title]) => {
      if (!name) return el("th", { scope: "col" }, title);
      const sorted = key === name ? (isUp ? "ascending" : "descending") : null;
      const sort = () => ((this.order = { key: name, isUp: key === name ? !isUp : false }), this.fillTable());
      return el("th", { scope: "col", "aria-sort": sorted },
        el("button", { type: "button", class: "plain", onclick: sort }, title, sorted ? (isUp ? " ▲" : " ▼") : ""));
    };
    fill(
      this.table,
      el("caption", { class: "hidden" }, "Runs"),
      el("thead", {}, el("tr", {}, ...columns.map(heading))),
      el("tbody", {}, ...rows.map((row) =>
        el("tr", { class: row.state.split(":")[0] }, ...columns.map(([name, , cell]) =>
          el(name === "name" ? "th" : "td", { scope: name === "name" ? "row" : null }, ...[cell(row)].flat())))))
    );
    fill(this.legend, this.rows.map((row, index) => {
      const toggle = (on) => (this.hidden[on ? "delete" : "add"](row.name), this.draw());
      const label = checkbox(row.name, this.isShown(row.name), toggle);
      label.insertBefore(swatch(index), label.lastChild);
      return label;
    }));
    this.draw();
  }

  draw() {
    const { now } = this.context.state;
    const faults = [...this.curves.values()].filter((run) => run.message).map((run) => `${run.name}: ${run.message}`);
    this.message.textContent = faults.join("\n");
    this.message.hidden = !faults.length;
    const shown = this.rows.filter((row) => this.isShown(row.name));
    const all = shown.map((row) => [row, this.curves.get(row.name) ?? { points: [], evaluations: [] }]);
    const terms = new Set(["loss", ...all.flatMap(([, run]) => Object.keys(run.points.at(-1) ?? {}))]);
    for (const name of ["step", "epoch"]) terms.delete(name);
    const metrics = new Set(all.flatMap(([, run]) => Object.keys(run.evaluations.at(-1) ?? {})));
    for (const name of ["step", "epoch"]) metrics.delete(name);
    const chosen = metrics.has(now.metric) ? now.metric : ([...metrics][0] ?? "");
    options(this.lossChoice, [...terms], now.loss); // losses, and other values that are logged per step
    options(this.metricChoice, [...metrics], chosen);
    const series = (lines, key) =>
      all.map(([row, run]) => ({
        name: row.name, index: this.index(row.name), points: run[lines].map((one) => [one.step, one[key]]),
      }));
    this.loss.set(series("points", now.loss), this.isLog);
    this.metric.set(series("evaluations", chosen));
    const measured = shown.filter((row) => row.metrics?.summary);
    this.fillMetrics(measured);
    this.fillClasses(measured);
  }

  fillMetrics(rows) {
    const names = [...new Set(rows.flatMap((row) => Object.keys(row.metrics.summary)))];
    const cell = (row, name) => withInterval("", row.metrics.summary[name], row.metrics.intervals?.summary?.[name]);
    const rough = rows.filter((row) => row.metrics.intervals?.rough).map((row) => row.name);
    const note = (text) => el("p", { class: "muted" }, text);
    const none = "No run shown has metrics yet: boxwright evaluate RUN --data DATA --out RUN";
    fill(
      this.metrics,
      rows.length ? grid("Metric", rows, names, cell, this) : note(none),
      rough.length > 0 && note(`From few images, so the intervals are rough: ${rough.join(", ")}`),
    );
  }

  fillClasses(rows) {
    const of = (row) => new Map((row.metrics.classes ?? []).map((one) => [one.name, one]));
    const maps = new Map(rows.map((row) => [row, of(row)]));
    const names = [...new Set([...maps.values()].flatMap((map) => [...map.keys()]))];
    const cell = (row, name) => {
      const one = maps.get(row).get(name);
      const key = one && ["ap", "top1", "accuracy", "recall"].find((candidate) => candidate in one);
      return withInterval("", one?.[key], one?.[`${key}_interval`]);
    };
    fill(this.classes, names.length ? grid("Class (AP)", rows, names, cell, this) : el("p", { class: "muted" }, "–"));
  }
}

function settings(values) {
  const text = (value) => (typeof value === "string" ? value : JSON.stringify(value));
  return Object.entries(values).map(([key, value]) => `${key}=${text(value)}`).join(" ");
}

/** A line of a log with the terms of the loss among its other numbers. */
function flat({ total, terms, ...others }) {
  return { loss: total, ...terms, ...others };
}

function grid(corner, rows, names, cell, view) {
  return el(
    "table", { class: "numbers" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, corner),
      ...rows.map((row) => el("th", { scope: "col" }, swatch(view.index(row.name)), row.name)))),
    el("tbody", {}, ...names.map((name) =>
      el("tr", {}, el("th", { scope: "row" }, name), ...rows.map((row) => el("td", {}, ...[cell(row, name)].flat()))))),
  );
}

/** A metric with its interval as text and as a bar from 0 to 1. */
function withInterval(measure, value, interval) {
  if (typeof value !== "number") return "–";
  const text = `${measure ? `${measure} ` : ""}${value < 0 ? "–" : value.toFixed(3)}`;
  if (!interval) return text;
  const bar = el("span", { class: "whisker", "aria-hidden": "true" }, el("i"), el("b"));
  const [low, high] = interval.map((end) => Math.max(0, Math.min(1, end)));
  bar.firstChild.style.left = `${low * 100}%`;
  bar.firstChild.style.width = `${(high - low) * 100}%`;
  bar.lastChild.style.left = `${Math.max(0, Math.min(1, value)) * 100}%`;
  return [text, el("span", { class: "muted" }, ` [${interval.map((end) => end.toFixed(3)).join(", ")}]`), bar];
}

function swatch(index) {
  const dot = el("i", { class: "dot", "aria-hidden": "true" });
  dot.style.background = lineColor(Math.max(0, index));
  return dot;
}

function options(element, names, value) {
  const text = names.join("\n");
  if (element.dataset.names !== text) fill(element, names.map((name) => el("option", { value: name }, name)));
  element.dataset.names = text;
  element.value = value;
}

/** Compare numbers by value and text alphabetically; missing values come last. */
function compare(one, other) {
  if (one === null || other === null) return (one === null ? 0 : 1) - (other === null ? 0 : 1);
  return typeof one === "number" ? one - other : String(one).localeCompare(String(other));
}
