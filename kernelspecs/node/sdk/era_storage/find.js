"use strict";
/**
 * Lets programs find this package, also where no `node_modules` has it: by `import`, which looks at
 * no NODE_PATH, and as `./era_storage.js`. What a program has itself under these names wins.
 *
 * Node loads it before a program (`--require` in NODE_OPTIONS), so it must cost nothing.
 */

const Module = require("node:module");
const { pathToFileURL } = require("node:url");

const NAME = "era_storage";
const FILE = /^\.{1,2}\/(?:\.\.\/)*era_storage(?:\.[cm]?js)?$/;
const NOT_FOUND = new Set(["MODULE_NOT_FOUND", "ERR_MODULE_NOT_FOUND"]);
const FRAMES = 6; // of this hook, by which it may make the stack of an error longer

const index = `${__dirname}/index.js`;
let hooks = null;

/** Returns whether a name may mean this package. */
function isMeant(name) {
  return name === NAME || FILE.test(name);
}

/** Makes the package the last place where its names are looked for, after all other hooks. */
function install() {
  if (typeof Module.registerHooks === "function") {
    hooks?.deregister();
    hooks = Module.registerHooks({ resolve });
  } else {
    patchRequire();
  }
}

function resolve(name, context, nextResolve) {
  const limit = Error.stackTraceLimit;
  if (typeof limit === "number") Error.stackTraceLimit = limit + FRAMES;
  try {
    return isMeant(name) ? resolveMeant(name, context, nextResolve) : nextResolve(name, context);
  } finally {
    if (typeof limit === "number") Error.stackTraceLimit = limit;
  }
}

function resolveMeant(name, context, nextResolve) {
  try {
    return nextResolve(name, context);
  } catch (error) {
    if (!isMissing(error)) throw error;
    return { url: pathToFileURL(index).href, format: "commonjs", shortCircuit: true };
  }
}

/** Returns whether a module itself was not found, and not one that it needs. */
function isMissing(error) {
  return NOT_FOUND.has(error?.code);
}

/** Does the same for `require`, where Node has no hooks. */
function patchRequire() {
  if (hooks !== null) return;
  hooks = Module._resolveFilename;
  Module._resolveFilename = function (name, ...rest) {
    try {
      return hooks.call(this, name, ...rest);
    } catch (error) {
      if (!isMeant(name) || !isMissing(error)) throw error;
      return index;
    }
  };
}

install();

module.exports = { directory: `${__dirname}/`, index, install, isMeant, isMissing };
