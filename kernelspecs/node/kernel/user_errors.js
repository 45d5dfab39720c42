"use strict";
/** Tells uncaught errors as Node prints them, without the kernel's own frames and without colours. */

const { pathToFileURL, fileURLToPath } = require("node:url");
const util = require("node:util");
const vm = require("node:vm");

const early = require("./early.js");
const { binding, internalErrors } = require("./internals.js");

const KERNEL_URL = pathToFileURL(__dirname).href;
const MAX_SOURCE_CHARS = 1000; // of a line that is shown
const MAX_TEXT_CHARS = 64 * 1024;
const HINT = "(Use `node --trace-uncaught ...` to show where the exception was thrown)";

/** The cells of a session, by their names: `{ code, plan }`. */
class CellSources {
  constructor() {
    this.cells = new Map();
    this.latest = "";
  }

  add(name, cell) {
    this.latest = name;
    this.cells.set(name, cell);
  }

  /** Returns where the latest cell has thrown a value that is no error, if that is plain. */
  throwPlace() {
    const place = this.cells.get(this.latest)?.plan?.throwPlace();
    return place ? { ...place, file: this.latest } : null;
  }

  /** Returns the user's position for a position in what was run. */
  originalPosition(name, line, column) {
    const cell = this.cells.get(name);
    if (cell === undefined) return { line, column };
    const found = { line, column: cell.plan?.originalColumn(line, column) ?? column };
    return cell.map?.(found) ?? found;
  }

  /** Returns a line of a cell or a file; "" when it is not there. */
  line(name, number) {
    const cell = this.cells.get(name);
    if (cell !== undefined) return cell.code.split("\n")[number - 1] ?? "";
    try {
      if (name.startsWith("node:")) return nodeLines(name)[number - 1] ?? "";
      const file = name.startsWith("file:") ? fileURLToPath(name) : name;
      return early.readFileSync(file, "utf8").split("\n")[number - 1] ?? "";
    } catch {
      return "";
    }
  }
}

/** Returns whether a frame is the kernel's, or Node's way from the kernel to the program. */
function isKernelFrame(site) {
  const file = site.getFileName?.() ?? "";
  return file.startsWith(__dirname) || file.startsWith(KERNEL_URL) || file === "node:inspector";
}

/** Cuts the frames below the program's own, and corrects positions in cells. */
function cleanFrames(sites, sources) {
  const end = sites.findIndex(isKernelFrame);
  return (end < 0 ? sites : sites.slice(0, end)).map((site) => correctPosition(site, sources));
}

function correctPosition(site, sources) {
  const name = site.getScriptNameOrSourceURL?.();
  const [line, column] = [site.getLineNumber(), site.getColumnNumber()];
  if (!name || !sources.cells.has(name) || line === null) return site;
  const found = sources.originalPosition(name, line, column);
  if (found.line === line && found.column === column) return site;
  const text = site.toString().replace(`:${line}:${column}`, `:${found.line}:${found.column}`);
  return new Proxy(site, {
    get(target, key) {
      if (key === "getLineNumber") return () => found.line;
      if (key === "getColumnNumber") return () => found.column;
      if (key === "toString") return () => text;
      const value = target[key];
      return typeof value === "function" ? value.bind(target) : value;
    },
  });
}

/** Makes all stacks that code asks for ones of the program alone. */
function installStackFilter(sources) {
  const original = internalErrors?.prepareStackTraceCallback;
  if (typeof original !== "function") return; // texts are cleaned where they are printed
  binding("errors").setPrepareStackTraceCallback((globals, error, sites) => {
    let cleaned = sites;
    try {
      cleaned = cleanFrames(sites, sources);
    } catch {
      // a frame that cannot be read is shown as it is
    }
    return original(globals, error, cleaned);
  });
}

/** Returns the first place in an error's stack that is not a constructor's. */
function findPlace(stack) {
  for (const line of String(stack).split("\n")) {
    const match = /^ {4}at (.*?\()?((?:file:|node:|\/|<)[^()]*?):(\d+):(\d+)\)?$/.exec(line);
    if (match === null || /^(?:new|async) /.test(match[1] ?? "")) continue;
    return { file: match[2], line: Number(match[3]), column: Number(match[4]) };
  }
  return null;
}

class ErrorTexts {
  constructor(sources) {
    this.sources = sources;
  }

  /** Returns what Node prints for an uncaught error; `place` is where it was thrown, if known. */
  uncaught(error, { place = null, isRejection = false } = {}) {
    const isError = util.types.isNativeError(error) || error instanceof Error;
    const found = isError ? this.thrownAt(error, isRejection) : this.sources.throwPlace();
    const arrow = this.arrow(place ?? found);
    const text = inspectError(error);
    const version = `\n\nNode.js ${process.version}\n`;
    if (isError) return (arrow === "" ? "" : `${arrow}\n${place ? "" : "\n"}`) + text + version;
    const isObject = typeof error === "object" || typeof error === "function";
    const hint = isObject && error !== null ? "" : `\n${HINT}`;
    return `${arrow === "" ? "Uncaught:" : `\n${arrow}`}\n${text}${hint}${version}`;
  }

  /** Returns what Node prints for code that cannot be compiled. */
  syntaxError(error, { cellName, script }) {
    try {
      new vm.Script(script, { filename: cellName });
    } catch (problem) {
      const text = String(problem.stack);
      const end = text.search(/\n {4}at /);
      return `${end < 0 ? text : text.slice(0, end)}\n\nNode.js ${process.version}\n`;
    }
    return this.uncaught(error);
  }

  thrownAt(error, isRejection) {
    const place = findPlace(safeStack(error));
    if (place === null || isRejection) return place;
    const before = this.sources.line(place.file, place.line).slice(0, place.column - 1);
    if (before.endsWith("throw ")) place.column -= "throw ".length;
    return place;
  }

  /** Returns file, source line and a caret below it; "" when the line is not to be had. */
  arrow(place) {
    if (place === null) return "";
    const source = this.sources.line(place.file, place.line);
    if (!source || source.length > MAX_SOURCE_CHARS) return "";
    const indent = source.slice(0, place.column - 1).replace(/[^\t]/g, " ");
    return `${place.file}:${place.line}\n${source}\n${indent}${"^".repeat(place.length ?? 1)}`;
  }
}

/** Returns the source of a part of Node. */
function nodeLines(name) {
  return binding("builtins").natives[name.slice("node:".length)].split("\n");
}

function safeStack(error) {
  try {
    return error.stack;
  } catch {
    return "";
  }
}

function inspectError(error) {
  try {
    if (util.types.isNativeError(error)) return inspectNative(error);
    return util.inspect(error);
  } catch {
    return "[an error that cannot be shown]";
  }
}

/** Returns the text of an error with what Node adds to those of event emitters. */
function inspectNative(error) {
  internalErrors?.fatalExceptionStackEnhancers?.beforeInspector(error);
  // Without frames, an error is shown in brackets.
  return util.inspect(error).replace(/^\[([^]*?)\](?= \{|$)/, "$1");
}

/** Returns name, text and lines of an error for a reply. */
function describeError(error, text) {
  let name = "Error";
  let value = "";
  try {
    const isObject = typeof error === "object" && error !== null;
    name = isObject && typeof error.name === "string" ? error.name : isObject ? "Error" : "Uncaught";
    value = isObject && "message" in error ? String(error.message) : util.inspect(error);
  } catch {
    // code of the program that fails when it is asked
  }
  const lines = text.slice(0, MAX_TEXT_CHARS).replace(/\n+$/, "").split("\n");
  return { name, value: value.slice(0, MAX_TEXT_CHARS), traceback: lines };
}

module.exports = { CellSources, ErrorTexts, describeError, installStackFilter };
