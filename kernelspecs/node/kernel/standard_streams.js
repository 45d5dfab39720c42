"use strict";
/** `process.stdout` and `process.stderr` of the program, which write at once, as Node's do. */

const { Writable } = require("node:stream");

const early = require("./early.js");

const DESCRIPTORS = { stdout: 1, stderr: 2 };
const MAX_LATE_LINE = 8192; // characters before the prompt of a request for input that are kept

class ProgramOutput {
  /** `isActive(run)` tells whether the fence of a run has not been sent yet. */
  constructor(link, context, isActive) {
    this.link = link;
    this.context = context;
    this.isActive = isActive;
    this.openLine = ""; // what stands on stdout behind the last line break
  }

  install() {
    for (const name of Object.keys(DESCRIPTORS)) {
      const stream = new ProgramStream(name, this);
      Object.defineProperty(process, name, {
        configurable: true,
        enumerable: true,
        get: () => stream,
      });
    }
  }

  /** Writes for the run of the calling code; what dead ones still say is dropped. */
  write(name, data) {
    const run = this.context.current();
    if (run?.isDead) return;
    if (run === null || this.isActive(run)) {
      this.link.write(DESCRIPTORS[name], data);
      if (name === "stdout") this.noteLine(data);
    } else {
      this.link.post({ kind: "late", name, text: String(data), parent: run.header });
    }
  }

  noteLine(data) {
    const text = typeof data === "string" ? data : data.toString("utf8");
    const at = text.lastIndexOf("\n");
    this.openLine = at < 0 ? (this.openLine + text).slice(-MAX_LATE_LINE) : text.slice(at + 1);
  }
}

class ProgramStream extends Writable {
  constructor(name, output) {
    super({ decodeStrings: false });
    this.programOutput = output;
    this.streamName = name;
    hide(this, ["programOutput", "streamName"]);
    this.fd = DESCRIPTORS[name];
    this._type = "pipe";
    this._isStdio = true;
  }

  _write(chunk, encoding, callback) {
    const isText = typeof chunk === "string";
    const isPlain = isText && (encoding === "utf8" || encoding === "utf-8");
    this.programOutput.write(this.streamName, isText && !isPlain ? Buffer.from(chunk, encoding) : chunk);
    callback();
  }

  /** Ends nothing: the next run writes here, too. */
  end(chunk, encoding, callback) {
    const done = [chunk, encoding, callback].find((one) => typeof one === "function");
    if (chunk !== undefined && chunk !== null && typeof chunk !== "function") {
      this.write(chunk, typeof encoding === "string" ? encoding : undefined);
    }
    early.nextTick(() => {
      this.emit("finish");
      done?.();
    });
    return this;
  }

  destroy() {
    return this;
  }

  destroySoon() {}
}

function hide(object, names) {
  for (const name of names) {
    Object.defineProperty(object, name, { enumerable: false, configurable: true, writable: true });
  }
}

module.exports = { ProgramOutput };
