"use strict";
/** Answers to requests of Jupyter's protocol that need no code of the program. */

const { NewestCells } = require("./newest_cells.js");
const { PROTOCOL_VERSION } = require("./wire.js");

const NO_DEBUGGER = "This kernel has no debugger.";

/** Returns the content of a `kernel_info_reply`; `language` is "node" or "typescript". */
function describeKernel(language) {
  const isTyped = language === "typescript";
  return {
    status: "ok",
    protocol_version: PROTOCOL_VERSION,
    implementation: "era",
    implementation_version: "1",
    language_info: {
      name: isTyped ? "typescript" : "javascript",
      version: process.versions.node,
      mimetype: isTyped ? "text/typescript" : "text/javascript",
      file_extension: isTyped ? ".ts" : ".js",
      codemirror_mode: isTyped ? { name: "javascript", typescript: true } : { name: "javascript" },
      pygments_lexer: isTyped ? "typescript" : "javascript",
    },
    banner: `Node.js ${process.version}`,
    debugger: false,
    help_links: [],
    supported_features: [],
  };
}

const STATIC_REQUESTS = {
  connect_request: () => ({ status: "ok" }),
  comm_info_request: () => ({ status: "ok", comms: {} }),
  debug_request: (content) => ({
    status: "error",
    ename: "Error",
    evalue: NO_DEBUGGER,
    traceback: [],
    type: "response",
    request_seq: content.seq ?? 0,
    success: false,
    command: content.command ?? "",
    message: NO_DEBUGGER,
  }),
};

/** The numbers and the code of the runs. */
class History {
  constructor() {
    this.count = 0;
    this.unstoredCount = 0;
    this.addedCount = 0;
    this.entries = new NewestCells(); // triples of Jupyter: session, number, code
  }

  /** Adds a run and returns its number, which a server may have given. */
  add(code, isStored, givenNumber) {
    if (isStored) this.count += 1;
    const number = Number.isInteger(givenNumber) ? givenNumber : this.count;
    if (isStored) {
      this.entries.add(++this.addedCount, code.length, [0, number, code]);
    }
    return number;
  }

  /** Returns another name for each cell that has no number of its own. */
  unstoredName() {
    return `<unstored-cell-${++this.unstoredCount}>`;
  }

  /** Answers a `history_request`. */
  answer(content) {
    let found = this.entries.all();
    if (content.hist_access_type === "search") {
      const pattern = wildcardPattern(String(content.pattern ?? "*"));
      found = found.filter((entry) => pattern.test(entry[2]));
    } else if (content.hist_access_type === "range") {
      const stop = content.stop ?? Infinity;
      found = found.filter((entry) => entry[1] >= (content.start ?? 0) && entry[1] < stop);
    }
    if (content.hist_access_type !== "range" && Number.isInteger(content.n)) {
      found = content.n > 0 ? found.slice(-content.n) : [];
    }
    if (content.output) found = found.map(([s, number, code]) => [s, number, [code, null]]);
    return { status: "ok", history: found };
  }
}

/** Returns what matches a text in which `*` and `?` stand for any characters and for one. */
function wildcardPattern(text) {
  const escaped = text.replace(/[.+^${}()|[\]\\]/g, "\\$&");
  return new RegExp(`^${escaped.replaceAll("*", "[^]*").replaceAll("?", "[^]")}$`);
}

module.exports = { History, STATIC_REQUESTS, describeKernel };
