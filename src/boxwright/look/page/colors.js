// Colors of classes, of statuses and of runs.

const PALETTE = [
  "#ff5c5c", "#4da3ff", "#ffd23f", "#3ddc84", "#ff8ad8", "#00d5e0", "#ff9f40", "#b794ff", "#c6e048", "#f2f2f2",
  "#e08e79", "#7fd1b9",
];

/** Colors on images of the statuses of errors.csv. */
export const STATUSES = {
  correct: "#3ddc84",
  missed: "#ffffff",
  localization: "#ffa931",
  classification: "#c58bff",
  duplicate: "#37d0e8",
  both: "#ff8ad8",
  background: "#ff4d4d",
  ignored: "#a9a9a9",
  "not counted": "#8a8a8a",
};

export const FINDING = "#ffe14d";

/** The color of a class by its number. */
export function classColor(index) {
  if (index < 0) return "#a9a9a9";
  if (index < PALETTE.length) return PALETTE[index];
  return `hsl(${Math.round((index * 137.5) % 360)} 80% ${60 + (index % 3) * 8}%)`;
}

export function statusColor(status) {
  return STATUSES[status] ?? "#a9a9a9";
}

const LINES_LIGHT = ["#1f6feb", "#cf222e", "#1a7f37", "#8250df", "#9a6700", "#bf3989", "#0b7285", "#57606a"];
const LINES_DARK = ["#6cb0ff", "#ff7b72", "#56d364", "#d2a8ff", "#e3b341", "#ff9bce", "#56d4dd", "#b1bac4"];

/** The color of a run's curve by its number; it has to stand out from the page. */
export function lineColor(index) {
  const colors = isDark() ? LINES_DARK : LINES_LIGHT;
  return colors[index % colors.length];
}

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
