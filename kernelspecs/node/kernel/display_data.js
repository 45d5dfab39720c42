"use strict";
/** Makes MIME bundles of values, and the functions by which programs show them. */

const util = require("node:util");

const MAX_TEXT_CHARS = 1024 * 1024;
const SIGNATURES = [
  ["image/png", Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a])],
  ["image/jpeg", Buffer.from([0xff, 0xd8, 0xff])],
  ["image/gif", Buffer.from("GIF8")],
];
const SCHEMA_TYPES = { "vega-lite": "application/vnd.vegalite", vega: "application/vnd.vega" };
const TYPES = {
  html: "text/html",
  javascript: "application/javascript",
  json: "application/json",
  latex: "text/latex",
  markdown: "text/markdown",
  svg: "image/svg+xml",
  text: "text/plain",
  png: "image/png",
  jpeg: "image/jpeg",
  gif: "image/gif",
  pdf: "application/pdf",
};
const DISPLAY_SYMBOLS = [Symbol.for("Jupyter.display"), Symbol.for("era.display")];

/** Returns the MIME bundle of a value: always as text, and richer where the value can be. */
function toBundle(value) {
  const bundle = { "text/plain": util.inspect(value).slice(0, MAX_TEXT_CHARS) };
  try {
    return { ...bundle, ...richForms(value) };
  } catch {
    return bundle; // code of the value fails when it is asked
  }
}

function richForms(value) {
  if (value === null || (typeof value !== "object" && typeof value !== "function")) return {};
  for (const symbol of DISPLAY_SYMBOLS) {
    if (typeof value[symbol] === "function") return checkBundle(value[symbol]());
  }
  if (value instanceof Uint8Array) return imageForms(value);
  if (typeof value.toDataURL === "function") return dataUrlForms(String(value.toDataURL()));
  if (typeof value._repr_mimebundle_ === "function") return checkBundle(value._repr_mimebundle_());
  if (typeof value.outerHTML === "string") return markupForms(value);
  return specificationForms(value);
}

function imageForms(bytes) {
  for (const [type, signature] of SIGNATURES) {
    if (signature.equals(bytes.subarray(0, signature.length))) {
      return { [type]: Buffer.from(bytes).toString("base64") };
    }
  }
  return {};
}

function dataUrlForms(url) {
  const match = /^data:(image\/[\w.+-]+);base64,/.exec(url);
  return match === null ? {} : { [match[1]]: url.slice(match[0].length) };
}

/** Returns the forms of an element, such as those that Observable Plot makes. */
function markupForms(element) {
  const isImage = /^svg$/i.test(element.tagName ?? "");
  return { [isImage ? "image/svg+xml" : "text/html"]: element.outerHTML };
}

/** Returns the form of a chart of Vega or Vega-Lite, which its `$schema` names. */
function specificationForms(value) {
  const schema = typeof value.toSpec === "function" ? value.toSpec() : value;
  const match = /\/schema\/(vega(?:-lite)?)\/v(\d+)/.exec(String(schema?.$schema ?? ""));
  if (match === null) return {};
  return { [`${SCHEMA_TYPES[match[1]]}.v${match[2]}+json`]: JSON.parse(JSON.stringify(schema)) };
}

/** Returns a bundle as JSON can carry it; bytes as base64. */
function checkBundle(bundle) {
  const found = {};
  for (const [type, data] of Object.entries(bundle ?? {})) {
    if (data instanceof Uint8Array) found[type] = Buffer.from(data).toString("base64");
    else if (data !== undefined) found[type] = data;
  }
  return found;
}

/** Returns the functions that show something, each by `show(bundle)`. */
function makeFunctions(show) {
  const display = (value) => show(toBundle(value));
  for (const [name, type] of Object.entries(TYPES)) display[name] = (data) => show({ [type]: data });
  display.raw = (type, data) => show({ [type]: data });
  display.bundle = (bundle) => show(bundle);
  return display;
}

/** Returns what programs get as the module "tslab"; `publish(type, content)` sends a message. */
function makeDisplayModule(publish) {
  const send = (bundle, id, isUpdate) => {
    const transient = id === undefined ? {} : { display_id: id };
    const content = { data: checkBundle(bundle), metadata: {}, transient };
    publish(isUpdate ? "update_display_data" : "display_data", content);
  };
  const display = makeFunctions((bundle) => send(bundle));
  display.clear = (wait = false) => publish("clear_output", { wait });
  const newDisplay = (id = require("node:crypto").randomUUID()) => {
    let isShown = false;
    const updatable = makeFunctions((bundle) => {
      send(bundle, String(id), isShown);
      isShown = true;
    });
    return Object.assign(updatable, { id });
  };
  return { display, newDisplay };
}

module.exports = { makeDisplayModule, toBundle };
