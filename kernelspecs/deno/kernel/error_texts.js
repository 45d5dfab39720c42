"use strict";
/** Tells uncaught errors as `deno run` prints them, without the kernel's own frames. */

const { pathToFileURL } = require("node:url");
const path = require("node:path");
const util = require("node:util");

const MAX_SOURCE_CHARS = 1000; // of a line that is shown
const MAX_CAUSES = 20;
const SHARED = path.join(__dirname, "..", "..", "node", "kernel");
const KERNEL_PLACES = [__dirname, SHARED].flatMap((one) => [one, pathToFileURL(one).href]);
const TIMERS = `${pathToFileURL(SHARED).href}/timers.js`; // calls the program from Deno's timers
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
      for (const site of sites) lines.push(`    at ${site}`);
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
        if (file === TIMERS || !cleaned.length) continue;
        break;
      }
      cleaned.push(match === null ? line : this.correctFrame(match));
    }
    return cleaned;
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
    if (Array.isArray(error.errors)) {
      for (const one of error.errors) text += `\n    ${show(one).replaceAll("\n", "\n    ")}`;
    }
    text += this.arrow(frames);
    for (const frame of frames) text += `\n${frame}`;
    let cause = error.cause;
    for (let count = 0; cause !== undefined && cause !== null && count < MAX_CAUSES; count++) {
      text += `\nCaused by: ${util.types.isNativeError(cause) ? this.plain(cause) : show(cause)}`;
      cause = cause?.cause;
    }
    return text;
  }

  plain(error) {
    const { head, frames } = this.split(error);
    return [head, ...frames].join("\n");
  }

  /** Returns the first lines of an error and its frames. */
  split(error) {
    const lines = safeStack(error).split("\n");
    const at = lines.findIndex((line) => /^ {4}at /.test(line));
    const frames = at < 0 ? [] : lines.slice(at).filter((line) => /^ {4}at /.test(line));
    return { head: header(error), frames };
  }

  /** Returns the line that an error comes from, and a caret below; "" when it is not to be had. */
  arrow(frames) {
    for (const frame of frames) {
      const match = FRAME.exec(frame);
      if (match === null || /^(?:ext|node):/.test(match[2])) continue;
      const [, , file, line, column] = match;
      return this.arrowAt({ file, line: Number(line), column: Number(column) });
    }
    return "";
  }

  arrowAt({ file, line, column }) {
    const source = this.sources.line(file, line);
    if (!source || source.length > MAX_SOURCE_CHARS) return "";
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
