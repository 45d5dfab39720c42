"use strict";
/**
 * Loads the kernel's own modules. Node's loader looks at a dozen places for each of them, which takes
 * longer than to run it, and keeps them where programs look for theirs.
 *
 * On the main thread they live in a realm of their own, with an `Array`, a `Map` and a `Promise` that
 * no program can replace, freeze or hide; of the program's realm they have what PARAMETERS name.
 */

const fs = require("node:fs");
const path = require("node:path");
const vm = require("node:vm");
const { isMainThread } = require("node:worker_threads");

// Errors are the program's, which it gets to see.
const FOREIGN = { globalThis, Error, SyntaxError, TypeError, Uint8Array };
const PARAMETERS = ["exports", "require", "module", "__filename", "__dirname", ...Object.keys(FOREIGN)];
// What Node adds to the global object.
const NAMES_OF_NODE = (
  "process Buffer URL console performance TextDecoder TextEncoder " +
  "setTimeout clearTimeout setInterval clearInterval setImmediate clearImmediate"
).split(" ");

const loaded = new Map();
const realm = isMainThread ? makeRealm() : undefined;

function makeRealm() {
  const names = NAMES_OF_NODE.map((name) => [name, globalThis[name]]);
  // Older versions of Node have only the slower kind, which looks up each global name in an object.
  const context = vm.createContext(vm.constants?.DONT_CONTEXTIFY ?? {});
  return Object.assign(context, Object.fromEntries(names));
}

/** Returns what a module exports, as `require` does; names of packages go to Node. */
function requireOwn(name) {
  const isPath = name.startsWith("./") || (isMainThread && path.isAbsolute(name));
  if (!isPath) return require(name);
  const filename = path.resolve(__dirname, name);
  const known = loaded.get(filename);
  if (known !== undefined) return known.exports;
  const module = { exports: {} };
  const code = fs.readFileSync(filename, "utf8");
  const run = vm.compileFunction(code, PARAMETERS, { filename, parsingContext: realm });
  loaded.set(filename, module);
  const values = Object.values(FOREIGN);
  try {
    run.call(module.exports, module.exports, requireOwn, module, filename, __dirname, ...values);
  } catch (error) {
    loaded.delete(filename);
    throw error;
  }
  return module.exports;
}

requireOwn.cache = require.cache; // of Node's modules, which programs share

module.exports = { requireOwn };
