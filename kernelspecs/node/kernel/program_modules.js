"use strict";
/**
 * The modules of the program: `require`, `import` and what else a main module has, and the renewal
 * of modules whose files changed between two runs.
 */

const Module = require("node:module");
const path = require("node:path");
const { URL, fileURLToPath, pathToFileURL } = require("node:url");

const early = require("./early.js");

const VERSION_QUERY = "era-version";
const IMPORT_PLACE = Symbol("place of the name that cannot be imported");
const IMPORTER = "module.exports = (name, options) => import(name, options);";

class ProgramModules {
  /**
   * `mainName` is the name of the program's file, which need not be there. With `areNamesOptional`
   * an `import` may name what is not exported: a type, which was erased.
   */
  constructor(mainName, areNamesOptional) {
    this.areNamesOptional = areNamesOptional;
    this.directory = process.cwd();
    this.file = path.join(this.directory, mainName);
    this.states = new Map(); // file → its state when it was loaded
    this.parents = new Map(); // file → files that import it
    this.versions = new Map(); // file → how often it was renewed
    this.main = this.makeMain();
    this.importer = this.makeImporter();
    this.meta = this.makeMeta();
  }

  makeMain() {
    const main = new Module(this.file, null);
    main.filename = this.file;
    main.paths = Module._nodeModulePaths(this.directory);
    main.id = ".";
    main.loaded = false;
    process.mainModule = main;
    main._compile("module.exports = { require, exports };", this.file);
    const { require, exports } = main.exports; // those are the program's objects
    this.require = require;
    this.require.main = main;
    main.exports = exports;
    return main;
  }

  makeImporter() {
    const module = new Module(this.file, null);
    module.filename = this.file;
    module.paths = this.main.paths;
    module._compile(IMPORTER, this.file);
    return module.exports;
  }

  makeMeta() {
    const { file, require } = this;
    return Object.assign(Object.create(null), {
      dirname: path.dirname(file),
      filename: file,
      main: true,
      resolve: (name) => {
        const found = require.resolve(String(name));
        return path.isAbsolute(found) ? pathToFileURL(found).href : found;
      },
      url: pathToFileURL(file).href,
    });
  }

  /** Defines what a module finds around it as global names that a program may declare anew. */
  install() {
    const names = {
      require: this.require,
      module: this.main,
      exports: this.main.exports,
      __filename: this.file,
      __dirname: this.directory,
    };
    for (const [name, value] of Object.entries(names)) {
      const descriptor = { value, writable: true, configurable: true, enumerable: false };
      Object.defineProperty(globalThis, name, descriptor);
    }
    if (typeof Module.registerHooks === "function") {
      Module.registerHooks({ resolve: (...args) => this.onResolve(...args) });
    }
  }

  /** Imports a module as code in the program's file would. */
  import(name, options) {
    return this.importer(name, options);
  }

  /** Imports for an `import` statement, whose names must be there. */
  async importNames({ specifier, attributes, bindings }) {
    const options = Object.keys(attributes).length ? { with: attributes } : undefined;
    const namespace = await this.importer(specifier, options);
    for (const [, name, place] of bindings) {
      if (name === "*" || this.areNamesOptional) continue;
      if (!(name in namespace)) throw missingName(specifier, name, place);
    }
    return namespace;
  }

  // ---------------------------------------------------------------- files that change

  isOwn(file) {
    return (
      file.startsWith(this.directory + path.sep) && !file.includes(`${path.sep}node_modules${path.sep}`)
    );
  }

  /** Notes which module imports which, and gives renewed modules an address of their own. */
  onResolve(specifier, context, nextResolve) {
    const found = nextResolve(specifier, context);
    if (!found.url.startsWith("file:")) return found;
    const url = new URL(found.url);
    const file = fileURLToPath(url);
    if (!this.isOwn(file)) return found;
    if (!this.states.has(file)) this.states.set(file, fileState(file));
    if (context.parentURL?.startsWith("file:")) {
      const parent = fileURLToPath(new URL(context.parentURL));
      if (!this.parents.has(file)) this.parents.set(file, new Set());
      this.parents.get(file).add(parent);
    }
    const version = this.versions.get(file);
    if (!version || !/^module|json/.test(found.format ?? "module")) return found;
    url.searchParams.set(VERSION_QUERY, String(version));
    return { ...found, url: url.href };
  }

  /** Forgets modules whose files have changed, and those that import them. */
  forgetChanged() {
    Module._pathCache = Object.create(null);
    const changed = new Set();
    for (const [file, state] of this.states) if (fileState(file) !== state) changed.add(file);
    if (!changed.size) return;
    for (const file of changed) for (const parent of this.parentsOf(file)) changed.add(parent);
    for (const file of changed) {
      const cached = require.cache[file];
      if (cached !== undefined) {
        const siblings = cached.parent?.children;
        if (siblings) siblings.splice(siblings.indexOf(cached), 1);
        delete require.cache[file];
      }
      this.states.delete(file);
      this.versions.set(file, (this.versions.get(file) ?? 0) + 1);
    }
  }

  *parentsOf(file) {
    for (const parent of this.parents.get(file) ?? []) {
      if (parent !== this.file && this.states.has(parent)) yield parent;
    }
    for (const module of Object.values(require.cache)) {
      const isParent = module?.children?.some((child) => child.filename === file);
      if (isParent && module !== this.main && this.isOwn(module.filename)) yield module.filename;
    }
  }

  /** Remembers the files that were loaded. */
  rememberLoaded() {
    for (const file in require.cache) {
      if (this.isOwn(file) && !this.states.has(file)) this.states.set(file, fileState(file));
    }
  }
}

function fileState(file) {
  const state = early.statSync(file, { bigint: true, throwIfNoEntry: false });
  return state === undefined ? "" : `${state.mtimeNs}:${state.size}:${state.ino}`;
}

function missingName(specifier, name, place) {
  const error = new SyntaxError(
    `The requested module '${specifier}' does not provide an export named '${name}'`,
  );
  const value = place && { ...place, length: name.length };
  return Object.defineProperty(error, IMPORT_PLACE, { value });
}

module.exports = { IMPORT_PLACE, ProgramModules };
