"use strict";
/** Tells uncaught errors as Node prints them, without the kernel's own frames and without colours. */

const path = require("node:path");
const { pathToFileURL, fileURLToPath } = require("node:url");
const util = require("node:util");
const vm = require("node:vm");

const early = require("./early.js");
const { binding, internalErrors } = require("./node_internals.js");
const { NewestCells } = require("./newest_cells.js");

const KERNEL_URL = pathToFileURL(__dirname).href;
// Every `require` passes through it.
const FINDER = path.join(__dirname, "..", "sdk", "era_storage", "find.js");
const MAX_SOURCE_CHARS = 1000; // of a line that is shown
const MAX_TEXT_CHARS = 64 * 1024;
const MIN_DEPTH = 5; // of the properties of an error that are shown
const UNREADABLE = "[an error that cannot be shown]";
const EMITTED = "\nEmitted 'error' event";
const HINT = "(Use `node --trace-uncaught ...` to show where the exception was thrown)";

/** The newest cells of a session, by their names: `{ code, plan, map }`. */
class CellSources {
  constructor() {
    this.cells = new NewestCells();
    this.latest = "";
  }

  add(name, cell) {
    this.latest = name;
    this.cells.add(name, cell.code.length, cell);
  }

  /** Returns where the latest cell has thrown a value that does not tell it, if that is plain. */
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

  /** Returns the user's position for one in a cell as it is after its types were erased. */
  userPosition({ cellName }, line, column) {
    return this.cells.get(cellName)?.map?.({ line, column }) ?? { line, column };
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
  if (file === FINDER || file === "node:inspector") return true;
  return file.startsWith(__dirname) || file.startsWith(KERNEL_URL);
}

/** Removes the kernel's frames and those below the program's own; corrects positions in cells. */
function cleanFrames(sites, sources) {
  const isKernel = sites.map(isKernelFrame);
  if (!isKernel.includes(true)) return sites.map((site) => correctPosition(site, sources));
  const last = sites.findLastIndex((site, index) => !isKernel[index] && isProgramFrame(site));
  const end = isKernel.indexOf(true, last + 1);
  return sites
    .slice(0, end < 0 ? sites.length : end)
    .filter((_, index) => !isKernel[index])
    .map((site) => correctPosition(site, sources));
}

function isProgramFrame(site) {
  const name = site.getScriptNameOrSourceURL?.() ?? site.getFileName?.() ?? "";
  return name !== "" && !name.startsWith("node:");
}

function correctPosition(site, sources) {
  const name = site.getScriptNameOrSourceURL?.();
  const [line, column] = [site.getLineNumber(), site.getColumnNumber()];
  if (!name || sources.cells.get(name) === undefined || line === null) return site;
  const found = sources.originalPosition(name, line, column);
  if (found.line === line && found.column === column) return site;
  const text = site.toString().replace(`:${line}:${column}`, `:${found.line}:${found.column}`);
  return new Proxy(site, {
    get(target, key) {
      if (key === "getLineNumber") return () => found.line;
      if (key === "getColumnNumber") return () => found.column;
      if (key === "toString") return () => text;
      const value = target[key];
      return typeof value === "function" ? (...args) => early.apply(value, target, args) : value;
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
      cleaned = early.makeList(...cleanFrames(early.copyList(sites), sources));
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
    try {
      return this.uncaughtText(error, place, isRejection);
    } catch {
      return `${UNREADABLE}\n\nNode.js ${process.version}\n`; // its own code fails when it is asked
    }
  }

  uncaughtText(error, place, isRejection) {
    const isError = util.types.isNativeError(error) || error instanceof Error;
    if (isError) enhanceStack(error);
    const found = isError ? this.thrownAt(error, isRejection) : this.sources.throwPlace();
    const arrow = this.arrow(place ?? found);
    const text = isError || Object(error) === error ? inspectError(error) : primitiveText(error);
    const version = `\n\nNode.js ${process.version}\n`;
    if (isError) return (arrow === "" ? "" : `${arrow}\n${place ? "" : "\n"}`) + text + version;
    const isObject = typeof error === "object" || typeof error === "function";
    const hint = isObject && error !== null ? "" : `\n${HINT}`;
    return `${arrow === "" ? "Uncaught:" : `\n${arrow}`}\n${text}${hint}${version}`;
  }

  /** Returns what Node prints for a top-level await that is never settled. */
  unsettled(place) {
    const arrow = this.arrow(place);
    return `Warning: Detected unsettled top-level await${arrow && ` at ${arrow}\n\n\n`}\n`;
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
    const stack = safeStack(error);
    if (stack.includes(EMITTED)) return placeOfEmitter();
    const place = findPlace(stack);
    if (isRejection) return place;
    if (error.code === "ERR_ASSERTION") return placeOfAssertion(error) ?? place;
    if (place === null) return this.sources.throwPlace();
    const source = this.sources.line(place.file, place.line);
    const [before, behind] = [source.slice(0, place.column - 1), source.slice(place.column - 1)];
    if (before.endsWith("throw ")) place.column -= "throw ".length;
    else if (behind.startsWith("new ")) return this.sources.throwPlace() ?? place;
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

/** Returns where Node throws errors that an emitter emits and nobody handles. */
function placeOfEmitter() {
  const lines = nodeLines("node:events");
  const index = lines.findIndex((line) => line.includes("throw er; // Unhandled 'error' event"));
  const column = (lines[index]?.indexOf("throw") ?? 0) + 1;
  return index < 0 ? null : { file: "node:events", line: index + 1, column };
}

/** Returns where Node throws the error of an assertion, whose frames there are hidden. */
function placeOfAssertion(error) {
  const isOk = error.operator === "==" && error.expected === true;
  const file = isOk ? "node:internal/assert/utils" : "node:assert";
  const lines = nodeLines(file);
  const text = isOk ? "throw err;" : "throw new AssertionError(obj);";
  const index = lines.findIndex((line) => line.includes(text));
  return index < 0 ? null : { file, line: index + 1, column: lines[index].indexOf(text) + 1 };
}

/** Returns the source of a part of Node. */
function nodeLines(name) {
  return binding("builtins").natives[name.slice("node:".length)].split("\n");
}

function safeStack(error) {
  try {
    return String(error.stack);
  } catch {
    return "";
  }
}

/** Returns whether an error was thrown where no code of a program ran. */
function isOfNode(error) {
  const frames = safeStack(error).split("\n").filter((line) => line.startsWith("    at "));
  return frames.length > 0 && frames.every((line) => /[ (]node:[^()]*\)?$/.test(line));
}

/** Adds to a stack what Node adds to it, such as where an emitter emitted the error. */
function enhanceStack(error) {
  try {
    internalErrors?.fatalExceptionStackEnhancers?.beforeInspector(error);
  } catch {
    // the error does not let it
  }
}

function inspectError(error) {
  const depth = Math.max(util.inspect.defaultOptions.depth, MIN_DEPTH);
  try {
    if (!util.types.isNativeError(error)) return util.inspect(error, { customInspect: false, depth });
    void error.stack; // Node shows less where that fails
    const text = util.inspect(error, { customInspect: false, depth });
    // Without frames, an error is shown in brackets; here they may be the kernel's, and removed.
    const isWhole = Error.stackTraceLimit > 0;
    if (!isWhole || safeStack(error) !== standardHeader(error)) return text;
    return text.replace(/^\[([^]*?)\](?= \{|$)/, "$1");
  } catch {
    return fallbackText(error);
  }
}

function standardHeader({ name, message }) {
  return message ? `${name}: ${message}` : name;
}

/** Returns what is told of an error that cannot be inspected. */
function fallbackText(error) {
  try {
    return `${standardHeader(error)}\n${HINT}`;
  } catch {
    return UNREADABLE;
  }
}

/** Returns what Node prints for a value that is no object. */
function primitiveText(value) {
  return typeof value === "symbol" ? "" : String(value);
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

module.exports = { CellSources, ErrorTexts, describeError, installStackFilter, isOfNode };
