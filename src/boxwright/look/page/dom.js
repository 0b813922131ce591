// Helpers for elements. Text is never set as HTML: names of classes, files and runs are untrusted.

/**
 * Create an element. Attributes: `on...` are listeners, booleans and `value` are properties, others attributes.
 * Children that are null or false are left out.
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (typeof value === "boolean" || name === "value") element[name] = value;
    else element.setAttribute(name, value);
  }
  fill(element, ...children);
  return element;
}

/** Replace the children of an element. */
export function fill(element, ...children) {
  const isLeftOut = (child) => child === null || child === undefined || child === false;
  element.replaceChildren(...children.flat().filter((child) => !isLeftOut(child)));
}

export function byId(id) {
  return document.getElementById(id);
}

/** "1 box", "2 boxes". */
export function count(number, singular, plural = `${singular}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? singular : plural}`;
}

/** Text of coordinates and metrics, with at most `digits` decimals. */
export function short(number, digits = 1) {
  return typeof number === "number" && Number.isFinite(number) ? String(+number.toFixed(digits)) : "–";
}

let fields = 0;

/** A labeled control. control: an input or a select, or an element with one. */
export function field(text, control) {
  const input = control.matches("input, select") ? control : control.querySelector("input, select");
  fields += 1;
  input.id = `field-${fields}`;
  return el("div", { class: "field" }, el("label", { for: input.id }, text), control);
}

/** A select element; options are [value, text] pairs. */
export function select(options, value, onchange, attributes = {}) {
  const element = el("select", { ...attributes, onchange: () => onchange(element.value) });
  fill(element, options.map(([key, text]) => el("option", { value: key }, text)));
  element.value = value;
  return element;
}

/** A checkbox followed by its text. */
export function checkbox(text, checked, onchange, attributes = {}) {
  const input = el("input", { type: "checkbox", checked, ...attributes, onchange: () => onchange(input.checked) });
  return el("label", { class: "check" }, input, text);
}

/** A collapsible section of the panel. */
export function section(title, open, ...children) {
  return el("details", { class: "section", open }, el("summary", {}, title), ...children);
}
