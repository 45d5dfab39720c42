"use strict";
/** Tells uncaught errors as `deno run` prints them, without the kernel's own frames. */

const { pathToFileURL } = require("node:url");
const path = require("node:path");
const util = require("node:util");

const MAX_SOURCE_BYTES = 150; // of a line that is shown
const MAX_CAUSES = 20;
const SHARED = path.join(__dirname, "..", "..", "node", "kernel");
const KERNEL_PLACES = [__dirname, SHARED].flatMap((one) => [one, pathToFileURL(one).href]);
const TIMERS = path.join(SHARED, "timers.js"); // which calls the program from Deno's timers
const EVAL_PLACE = /\(([^()]*?):(\d+):(\d+)\)/g;
const WASM_FRAME = /^( {4}at )(wasm:.*)$/;
const FRAME = /^( {4}at (?:async )?(?:.*?\()?)((?:file:|ext:|node:|https?:|data:|\/|<)[^()]*?):(\d+):(\d+)(\)?)$/;

class ErrorTexts {
  /** `sources` are the cells; `importer` is the file that modules are imported by. */
  constructor(sources, importer) {
    this.sources = sources;
    this.importer = importer;
  }

  /** Makes the stacks of all errors ones of the program alone. */
  installStackFilter() {
    let own; // the program's `Error.prepareStackTrace`
    const prepare = (error, sites) => {
      if (typeof own === "function") return own(error, sites);
      const lines = [];
      for (const site of sites) lines.push(`    at ${describeSite(site)}`);
      return [header(error), ...this.cleanFrames(lines)].join("\n");
    };
    Object.defineProperty(Error, "prepareStackTrace", {
      configurable: true,
      enumerable: false,
      get: () => prepare,
      set: (value) => {
        own = value;
      },
    });
  }

  /** Removes the kernel's frames and those below the program's own; corrects positions in cells. */
  cleanFrames(lines) {
    const cleaned = [];
    for (const line of lines) {
      const match = FRAME.exec(line);
      const file = match?.[2] ?? "";
      if (file === this.importer) continue;
      if (KERNEL_PLACES.some((one) => file.startsWith(one))) {
        if (file.endsWith(TIMERS) || !cleaned.length) continue;
        break;
      }
      cleaned.push(match === null ? this.correctEval(line) : this.correctFrame(match));
    }
    return cleaned;
  }

  /** Corrects positions within a frame of code that `eval` was given. */
  correctEval(line) {
    return line.replace(EVAL_PLACE, (all, file, row, column) => {
      if (this.sources.cells.get(file) === undefined) return all;
      const found = this.sources.originalPosition(file, Number(row), Number(column));
      return `(${file}:${found.line}:${found.column})`;
    });
  }

  correctFrame([line, before, file, row, column, after]) {
    if (this.sources.cells.get(file) === undefined) return line.replace(/\?era-version=\d+/, "");
    const found = this.sources.originalPosition(file, Number(row), Number(column));
    return `${before}${file}:${found.line}:${found.column}${after}`;
  }

  // ---------------------------------------------------------------- texts

  /** Returns what Deno prints for an uncaught error. */
  uncaught(error, { isRejection = false } = {}) {
    const kind = isRejection ? "Uncaught (in promise) " : "Uncaught ";
    if (!util.types.isNativeError(error)) return `error: ${kind}${show(error)}\n`;
    return `error: ${kind}${this.describe(error)}\n`;
  }

  describe(error) {
    const { head, frames } = this.split(error);
    let text = head;
    const parts = read(error, "errors");
    if (Array.isArray(parts)) {
      for (const one of parts) text += `\n    ${this.plain(one).replaceAll("\n", "\n    ")}`;
    }
    text += this.arrow(frames);
    for (const frame of frames) text += `\n${frame}`;
    return text + this.causes(error);
  }

  causes(error) {
    let text = "";
    let cause = read(error, "cause");
    for (let count = 0; cause !== undefined && cause !== null && count < MAX_CAUSES; count++) {
      text += `\nCaused by: ${this.plain(cause, false)}`;
      cause = read(cause, "cause");
    }
    return text;
  }

  /** Returns an error without its line, or another value that was thrown. */
  plain(error, hasCauses = true) {
    if (!util.types.isNativeError(error)) return show(error);
    const { head, frames } = this.split(error);
    return [head, ...frames].join("\n") + (hasCauses ? this.causes(error) : "");
  }

  /** Returns the first lines of an error and its frames. */
  split(error) {
    const head = header(error);
    const stack = safeStack(error);
    // The message itself may have lines that look like frames.
    const lines = (stack.startsWith(head) ? stack.slice(head.length) : stack).split("\n");
    const frames = lines.filter((line) => /^ {4}at /.test(line));
    return { head, frames: frames.map((one) => one.replace(WASM_FRAME, "$1<anonymous> ($2)")) };
  }

  /** Returns the line that an error comes from, and a caret below; "" when it is not to be had. */
  arrow(frames) {
    for (const frame of frames) {
      const match = FRAME.exec(frame);
      if (frame.includes("(wasm:")) return ""; // there is no text of it
      if (match === null || /^(?:ext|node):/.test(match[2])) continue;
      const [, , file, line, column] = match;
      return this.arrowAt({ file, line: Number(line), column: Number(column) });
    }
    return "";
  }

  arrowAt({ file, line, column }) {
    const source = this.sources.line(file, line);
    if (!source || Buffer.byteLength(source) > MAX_SOURCE_BYTES) return "";
    return `\n${source}\n${source.slice(0, column - 1).replace(/[^\t]/g, " ")}^`;
  }

  /** Returns what Deno prints for a top-level await that is never settled. */
  unsettled(place) {
    const head = "error: Top-level await promise never resolved";
    if (place === null) return `${head}\n`;
    const { file, line, column = 1 } = place;
    return `${head}${this.arrowAt({ file, line, column })}\n    at <anonymous> (${file}:${line}:${column})\n`;
  }

  /** Returns what Deno prints for an `import` statement that cannot be met. */
  importProblem(error, { cellName }, { place, namePlace }) {
    if (hasUserFrames(error)) return this.uncaught(error);
    const at = namePlace ?? place;
    if (!(error instanceof SyntaxError)) {
      return `error: ${error.message}\n    at ${cellName}:${at.line}:${at.column}\n`;
    }
    return this.syntaxError(error, { cellName }, { line: at.line, column: at.column - 1 });
  }

  /** Returns what Deno prints for code that V8 does not compile; `place` is the parser's. */
  syntaxError(error, { cellName }, place) {
    const { line, column } = place ?? { line: 1, column: 0 };
    const at = { file: cellName, line, column: column + 1 };
    const frame = `    at <anonymous> (${cellName}:${line}:${column + 1})`;
    return `error: Uncaught ${header(error)}${this.arrowAt(at)}\n${frame}\n`;
  }
}

function hasUserFrames(error) {
  return /^ {4}at /m.test(safeStack(error));
}

/** Returns a frame as Deno writes it: the class is named before all functions of it. */
function describeSite(site) {
  const text = String(site);
  const name = site.getFunctionName();
  if (!name || /^[\w$.]+$/.test(name) || !text.startsWith(name)) return text;
  if (site.isToplevel() || site.isConstructor() || !site.getTypeName()) return text;
  return `${site.getTypeName()}.${text}`;
}

/** Returns a property of an error; undefined when its code fails. */
function read(error, name) {
  try {
    return error[name];
  } catch {
    return undefined;
  }
}

/** Returns name and message of an error. */
function header(error) {
  try {
    const name = String(error.name ?? "Error");
    const message = String(error.message ?? "");
    return message === "" ? name : name === "" ? message : `${name}: ${message}`;
  } catch {
    return "Error";
  }
}

function safeStack(error) {
  try {
    return String(error.stack);
  } catch {
    return "";
  }
}

function show(value) {
  try {
    return Deno.inspect(value);
  } catch {
    return "[a value that cannot be shown]";
  }
}

module.exports = { ErrorTexts };
