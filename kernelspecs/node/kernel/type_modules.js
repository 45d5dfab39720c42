"use strict";
/** Lets programs import TypeScript files, with and without their extensions. */

const Module = require("node:module");
const path = require("node:path");
const { URL, fileURLToPath } = require("node:url");

const early = require("./early.js");

const TYPED = /\.[cm]?tsx?$/;
const ENDINGS = [".ts", ".tsx", ".mts", ".cts", "/index.ts", ".js", ".mjs", ".cjs", ".json", "/index.js"];
const MODULE_SYNTAX = /^\s*(?:import\b(?!\s*\()|export\b)/m;

/** Installs hooks; before Node had them, files are loaded by `require`. */
function install(transform, modules) {
  const load = (file, options) => {
    const found = transform(early.readFileSync(file, "utf8"), file, options);
    if (found.error) throw Object.assign(found.error, { stack: found.text });
    return found.code;
  };
  if (typeof Module.registerHooks === "function") {
    Module.registerHooks({
      resolve: resolveTyped,
      load(url, context, nextLoad) {
        const file = url.startsWith("file:") ? fileURLToPath(new URL(url.split("?")[0])) : "";
        if (!TYPED.test(file) || file.includes("/node_modules/")) return nextLoad(url, context);
        const source = load(file);
        const isModule = /\.mts$/.test(file) || (!/\.cts$/.test(file) && MODULE_SYNTAX.test(source));
        return { format: isModule ? "module" : "commonjs", source, shortCircuit: true };
      },
    });
    return;
  }
  for (const extension of [".ts", ".tsx", ".mts", ".cts"]) {
    Module._extensions[extension] = (module, file) =>
      module._compile(load(file, { isCommonJs: true }), file);
  }
  const { importer } = modules;
  modules.importer = async (name, options) => {
    const file = /^\.{0,2}\//.test(name) ? resolveFile(path.resolve(modules.directory, name)) : null;
    return file !== null && TYPED.test(file) ? modules.require(file) : importer(name, options);
  };
}

function resolveTyped(specifier, context, nextResolve) {
  try {
    return nextResolve(specifier, context);
  } catch (error) {
    if (!/^(?:\.{1,2}\/|\/|file:)/.test(specifier) || !context.parentURL) throw error;
    const url = new URL(specifier, context.parentURL);
    const found = resolveFile(fileURLToPath(url));
    if (found === null) throw error;
    return nextResolve(specifier.startsWith("file:") ? `file://${found}` : found, context);
  }
}

/** Returns the file that a path without an extension means; null when there is none. */
function resolveFile(file) {
  if (early.statSync(file, { throwIfNoEntry: false })?.isFile()) return file;
  const stem = file.replace(/\.([cm]?)js$/, "");
  const typed = stem === file ? [] : [`${stem}.ts`, `${stem}.tsx`, `${stem}.mts`, `${stem}.cts`];
  const candidates = [...typed, ...ENDINGS.map((ending) => file + ending)];
  return candidates.find((one) => early.statSync(one, { throwIfNoEntry: false })?.isFile()) ?? null;
}

module.exports = { install };
