"use strict";
/**
 * Loads the kernel's own modules. Node's loader looks at a dozen places for each of them, which takes
 * longer than to run it, and keeps them where programs look for theirs.
 */

const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");

const PARAMETERS = ["exports", "require", "module", "__filename", "__dirname"];

const loaded = new Map();

/** Returns what a module of this folder exports, as `require` does; other names go to Node. */
function requireOwn(name) {
  if (!name.startsWith("./")) return require(name);
  const known = loaded.get(name);
  if (known !== undefined) return known.exports;
  const module = { exports: {} };
  loaded.set(name, module);
  const filename = path.join(__dirname, name);
  const run = vm.compileFunction(fs.readFileSync(filename, "utf8"), PARAMETERS, { filename });
  run.call(module.exports, module.exports, requireOwn, module, filename, __dirname);
  return module.exports;
}

requireOwn.cache = require.cache; // of Node's modules, which programs share

module.exports = { requireOwn };
