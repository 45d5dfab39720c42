"use strict";
/**
 * Replaces the methods of `console` by Node's own without the inspector, which keeps the last
 * thousand messages, and makes each slower, as soon as a session is connected.
 */

const { Console } = require("node:console");

function plainConsole() {
  const { prototype } = Console;
  for (const name of Object.keys(prototype)) {
    if (typeof prototype[name] !== "function" || typeof console[name] !== "function") continue;
    console[name] = prototype[name].bind(console);
    Object.defineProperty(console[name], "name", { value: name });
  }
}

module.exports = { plainConsole };
