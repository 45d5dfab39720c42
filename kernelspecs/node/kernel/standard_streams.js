"use strict";
/** `process.stdout` and `process.stderr` of the program, which write at once, as Node's do. */

const { Duplex } = require("node:stream");

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
      this.link.post({ kind: "late", name, text: typeof data === "string" ? data : Buffer.from(data).toString("utf8"), parent: run.header });
    }
  }

  noteLine(data) {
    const text = typeof data === "string" ? data : Buffer.from(data).toString("utf8");
    const at = text.lastIndexOf("\n");
    this.openLine = at < 0 ? (this.openLine + text).slice(-MAX_LATE_LINE) : text.slice(at + 1);
  }
}

class ProgramStream extends Duplex {
  constructor(name, output) {
    super({ readable: false, emitClose: false });
    this.programOutput = output;
    this.streamName = name;
    hide(this, ["programOutput", "streamName"]);
    this.fd = DESCRIPTORS[name];
    this._type = "pipe";
    this._isStdio = true;
  }

  /**
   * Writes at once. The state of the class above is left alone: code may be stopped at any place,
   * and the next run writes here, too.
   */
  write(chunk, encoding, callback) {
    const isText = typeof chunk === "string";
    if (!isText && !ArrayBuffer.isView(chunk)) return super.write(chunk, encoding, callback);
    const done = typeof encoding === "function" ? encoding : callback;
    const isPlain = isText && (typeof encoding !== "string" || /^utf-?8$/i.test(encoding));
    const data = isPlain ? chunk : isText ? Buffer.from(chunk, encoding) : toBytes(chunk);
    this.programOutput.write(this.streamName, data);
    if (typeof done === "function") early.nextTick(done, null);
    if (data.length < this.writableHighWaterMark) return true;
    early.nextTick(() => this.emit("drain"));
    return false;
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

// What Node has there for a pipe.
Object.defineProperty(ProgramStream, "name", { value: "Socket" });

function toBytes(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

function hide(object, names) {
  for (const name of names) {
    Object.defineProperty(object, name, { enumerable: false, configurable: true, writable: true });
  }
}

module.exports = { ProgramOutput };
