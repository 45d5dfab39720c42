"use strict";
/** All ways by which a program of Deno prints: at once, and in one order. */

const { ProgramOutput: NodeOutput } = require("../../node/kernel/standard_streams.js");
const { Console } = require("./deno_internals.js");

const WARNING_LEVEL = 2; // from which on a console prints to stderr

class ProgramOutput extends NodeOutput {
  install() {
    super.install();
    this.installConsole();
    for (const name of ["stdout", "stderr"]) this.installStream(name);
    for (const stream of this.streams) stream.isTTY = false;
  }

  /** Deno's own console prints to the descriptor itself, and keeps all for the inspector. */
  installConsole() {
    const own = new Console((text, level) =>
      this.write(level >= WARNING_LEVEL ? "stderr" : "stdout", text),
    );
    for (const name of Object.keys(own)) {
      if (name in console && typeof own[name] === "function") console[name] = own[name];
    }
  }

  installStream(name) {
    const writeSync = (data) => {
      this.write(name, data);
      return data.byteLength;
    };
    const write = async (data) => writeSync(data);
    let writable = null;
    const getWritable = () => (writable ??= new WritableStream({ write: writeSync }));
    const options = { configurable: true, enumerable: false };
    Object.defineProperties(Deno[name], {
      write: { value: write, writable: true, ...options },
      writeSync: { value: writeSync, writable: true, ...options },
      writable: { get: getWritable, ...options },
    });
  }
}

module.exports = { ProgramOutput };
