"use strict";
/** Functions by which programs show rich results: those of `Deno.jupyter`, and `display`. */

const { toBundle } = require("../../node/kernel/display_data.js");

const DISPLAY = Symbol.for("Jupyter.display");

function installDisplay({ display, newDisplay }) {
  Object.defineProperty(globalThis, "display", {
    value: display,
    writable: true,
    configurable: true,
  });
  Deno.jupyter = makeJupyter(display, newDisplay);
}

/** Returns what Deno's own kernel gives to programs as `Deno.jupyter`. */
function makeJupyter(display, newDisplay) {
  const bundleOf = (type) => (strings, ...values) => {
    const text = typeof strings === "string" ? strings : String.raw({ raw: strings }, ...values);
    return { [DISPLAY]: () => ({ [type]: text }) };
  };
  const places = new Map(); // display id → what shows there
  const show = async (value, { raw = false, display_id: id } = {}) => {
    const bundle = raw ? value : toBundle(value);
    if (id === undefined) {
      display.bundle(bundle);
    } else {
      if (!places.has(id)) places.set(id, newDisplay(id));
      places.get(id).bundle(bundle);
    }
  };
  return {
    $display: DISPLAY,
    display: show,
    format: (value) => toBundle(value),
    html: bundleOf("text/html"),
    md: bundleOf("text/markdown"),
    svg: bundleOf("image/svg+xml"),
    image: (data) => {
      const bytes = typeof data === "string" ? Deno.readFileSync(data) : data;
      return { [DISPLAY]: () => toBundle(bytes) };
    },
  };
}

module.exports = { installDisplay };
