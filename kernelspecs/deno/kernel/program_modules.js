"use strict";
/** The modules of the program: what `import` finds, and the renewal of files that have changed. */

const Module = require("node:module");
const path = require("node:path");
const { fileURLToPath, pathToFileURL } = require("node:url");

const early = require("../../node/kernel/early.js");
const { evaluateAs } = require("./deno_internals.js");

const SDK_NAME = "era_storage"; // which programs import by this name
const SDK_FILE = path.join(__dirname, "..", "..", "node", "sdk", SDK_NAME, "index.js");
const SDK_MODULE = path.join(__dirname, "..", "sdk", `${SDK_NAME}.mjs`);
const SDK_URL = early.existsSync(SDK_FILE) ? pathToFileURL(SDK_MODULE).href : null;
const VERSION_QUERY = "era-version";
const IMPORTER = "(name, options) => import(name, options)";
const ABSENT = 'import"era-absent:";';
const PROBLEM = /^(.*) at data:text\/javascript,\S*?:(\d+):(\d+)$/s;
const BARE_NAME = /^(?!\.{0,2}\/)(?![\w+.-]+:)/;
const { stripTypeScriptTypes } = Module;

class ProgramModules {
  /** `mainName` is the name of the program's file, which need not be there. */
  constructor(mainName) {
    this.directory = process.cwd();
    this.file = path.join(this.directory, mainName);
    this.url = pathToFileURL(this.file).href;
    this.states = new Map(); // file → its state when it was loaded
    this.parents = new Map(); // file → files that import it
    this.versions = new Map(); // file → how often it was renewed
    this.importer = evaluateAs(IMPORTER, this.url);
    this.meta = this.makeMeta();
  }

  makeMeta() {
    const { file, url } = this;
    const resolve = [(name) => resolveName(name, url)][0]; // a function without a name
    const dirname = path.dirname(file);
    return Object.assign(Object.create(null), { url, main: true, resolve, filename: file, dirname });
  }

  install() {
    Module.registerHooks({ resolve: (...args) => this.onResolve(...args) });
  }

  /** Imports a module as code in the program's file would. */
  import(name, options) {
    return this.importer(name, options);
  }

  /** Imports for an `import` statement of code, whose names must be there unless they are types. */
  async importNames(statement, code) {
    const { specifier, attributes, bindings } = statement;
    const options = Object.keys(attributes).length ? { with: attributes } : undefined;
    const namespace = await this.importer(specifier, options);
    for (const [, name, namePlace] of bindings) {
      if (name !== "*" && !(name in namespace) && isUsed(specifier, name, code)) {
        const problem = `The requested module '${specifier}' does not provide an export named '${name}'`;
        statement.namePlace = namePlace;
        const error = new SyntaxError(problem);
        error.stack = String(error);
        throw error;
      }
    }
    return namespace;
  }

  /**
   * Returns what V8 says of code as that of a module: `{ error, line, column }`, both from 1; null
   * for code that it takes. None of the code runs, for its first statement imports what is nowhere.
   */
  async findProblem(code) {
    const text = (ABSENT + code.replace(/^#!/, "//")).toWellFormed();
    try {
      await this.importer(`data:text/javascript,${encodeURIComponent(text)}`);
    } catch (error) {
      const found = PROBLEM.exec(error.message);
      if (found === null || !(error instanceof SyntaxError)) return null;
      const [, message, line, column] = found;
      const shift = line === "1" ? ABSENT.length : 0;
      return { error: new SyntaxError(message), line: Number(line), column: column - shift };
    }
    return null;
  }

  // ---------------------------------------------------------------- files that change

  isOwn(file) {
    return (
      file.startsWith(this.directory + path.sep) && !file.includes(`${path.sep}node_modules${path.sep}`)
    );
  }

  /** Notes which module imports which, and gives renewed modules an address of their own. */
  onResolve(specifier, context, nextResolve) {
    if (specifier === SDK_NAME && SDK_URL !== null) return nextResolve(SDK_URL, context);
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
    if (!version) return found;
    url.searchParams.set(VERSION_QUERY, String(version));
    return { ...found, url: url.href };
  }

  /** Forgets modules whose files have changed, and those that import them. */
  forgetChanged() {
    const changed = new Set();
    for (const [file, state] of this.states) if (fileState(file) !== state) changed.add(file);
    for (const file of changed) {
      for (const parent of this.parents.get(file) ?? []) {
        if (parent !== this.file && this.states.has(parent)) changed.add(parent);
      }
    }
    for (const file of changed) {
      this.states.delete(file);
      this.versions.set(file, (this.versions.get(file) ?? 0) + 1);
    }
  }
}

/** Returns the address that a name stands for in the program's file. */
function resolveName(name, url) {
  if (BARE_NAME.test(name)) throw notADependency(name);
  return new URL(name, url).href;
}

function notADependency(name) {
  return new TypeError(`Import "${name}" not a dependency`);
}

/** Returns whether code uses an imported name as a value: the import of a type is erased. */
function isUsed(specifier, name, code) {
  try {
    const text = stripTypeScriptTypes(code, { mode: "transform" });
    return text.includes(specifier) && new RegExp(`import[^;]*\\b${name}\\b[^;]*from`).test(text);
  } catch {
    return false;
  }
}

function fileState(file) {
  const state = early.statSync(file, { bigint: true, throwIfNoEntry: false });
  return state === undefined ? "" : `${state.mtimeNs}:${state.size}:${state.ino}`;
}

module.exports = { ProgramModules };
