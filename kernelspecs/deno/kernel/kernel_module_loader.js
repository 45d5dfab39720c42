"use strict";
/**
 * Loads the kernel's own modules, and packages that it uses. Deno's loader asks the file system about
 * each of them, and parses it to see what it is, which takes longer than to run it.
 */

const fs = require("node:fs");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const vm = require("node:vm");

const PARAMETERS = ["exports", "require", "module", "__filename", "__dirname"];
const OWN = path.basename(__dirname); // what folders of modules of kernels are called

const loaded = new Map();

/** Returns the function that modules in a directory load others by. */
function makeRequire(directory) {
  return (name) => {
    const isPath = name.startsWith(".") || path.isAbsolute(name);
    if (!isPath) return require(name);
    const filename = path.resolve(directory, name);
    if (name.startsWith(".") && path.basename(path.dirname(filename)) !== OWN) return require(filename);
    return load(filename);
  };
}

function load(file) {
  const known = loaded.get(file);
  if (known !== undefined) return known.exports;
  const module = { exports: {} };
  const code = fs.readFileSync(file, "utf8");
  const run = vm.compileFunction(code, PARAMETERS, { filename: pathToFileURL(file).href });
  loaded.set(file, module);
  const directory = path.dirname(file);
  try {
    run.call(module.exports, module.exports, makeRequire(directory), module, file, directory);
  } catch (error) {
    loaded.delete(file);
    throw error;
  }
  return module.exports;
}

module.exports = { requireOwn: makeRequire(__dirname) };
