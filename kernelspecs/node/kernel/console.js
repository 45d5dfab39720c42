"use strict";
/**
 * Replaces the methods of `console` by those of a console without the inspector, which keeps the
 * last thousand messages, and makes each slower, as soon as a session is connected.
 */

const { Console } = require("node:console");

function plainConsole() {
  const plain = new Console({ stdout: process.stdout, stderr: process.stderr });
  for (const [name, method] of Object.entries(plain)) {
    if (typeof method === "function" && typeof console[name] === "function") {
      console[name] = method;
    }
  }
}

module.exports = { plainConsole };
