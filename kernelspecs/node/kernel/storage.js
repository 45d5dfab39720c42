"use strict";
/** Gives programs the package `era_storage`, which children of theirs find by the environment. */

const Module = require("node:module");
const { pathToFileURL } = require("node:url");

const callOwner = require("../sdk/era_storage/call_owner.js");
require("../sdk/era_storage/early.js");
const finder = require("../sdk/era_storage/find.js");

/** Binds what the package uses before a program can replace it; calls of ended runs are silent. */
function installStorage(context, modules) {
  callOwner.current = () => context.current();
  finder.install();
  if (typeof Module.registerHooks !== "function") wrapImporter(modules);
  hideFromCache();
}

/** Lets `import` find the package where Node has no hooks. */
function wrapImporter(modules) {
  const { importer } = modules;
  modules.importer = async (name, options) => {
    try {
      return await importer(name, options);
    } catch (error) {
      if (!finder.isMeant(name) || !finder.isMissing(error)) throw error;
      return await importer(pathToFileURL(finder.index).href);
    }
  };
}

/** Keeps what is loaded of the package, and lets no program see that. */
function hideFromCache() {
  for (const [file, module] of Object.entries(Module._cache)) {
    if (!file.startsWith(finder.directory)) continue;
    const descriptor = { value: module, writable: true, configurable: true, enumerable: false };
    Object.defineProperty(Module._cache, file, descriptor);
  }
}

module.exports = { installStorage };
