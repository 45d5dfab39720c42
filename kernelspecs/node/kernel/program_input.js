"use strict";
/** `process.stdin`, which asks those who follow the run for a line when the program reads. */

const { Readable } = require("node:stream");

const early = require("./early.js");

class ProgramInput {
  constructor(link, context, program) {
    this.link = link;
    this.context = context;
    this.program = program;
    this.output = null;
    this.stream = null;
    this.reader = null; // what gets the next answer
  }

  install(output) {
    this.output = output;
    Object.defineProperty(process, "stdin", {
      configurable: true,
      enumerable: true,
      get: () => this.current(),
    });
    const prompt = (message = "", initial = "") => this.prompt(String(message), String(initial));
    const descriptor = { value: prompt, writable: true, configurable: true, enumerable: false };
    Object.defineProperty(globalThis, "prompt", descriptor);
  }

  /** Returns the stream; a new one when the last was read to its end. */
  current() {
    if (this.stream === null || this.stream.destroyed || this.stream.readableEnded) {
      this.stream = this.makeStream();
    }
    return this.stream;
  }

  makeStream() {
    const stream = new Readable({ read: () => this.ask((line) => stream.push(line)) });
    stream.fd = 0;
    return stream;
  }

  /** Calls `onLine` with a line, its end included, or with null when nobody can answer. */
  ask(onLine) {
    if (!this.canAsk()) {
      early.nextTick(onLine, null);
      return;
    }
    this.reader = onLine;
    this.link.ref(); // the program waits
    this.post(this.output.openLine);
  }

  onAnswer(value) {
    const { reader } = this;
    this.reader = null;
    if (this.program.active !== null && !this.program.active.isEnding) this.link.unref();
    const line = value === null ? null : `${value}\n`;
    if (reader) this.context.enter(this.program.active, () => reader(line));
  }

  /** Asks for a line and waits for it; null when nobody can answer. */
  prompt(message, initial) {
    if (!this.canAsk()) {
      this.output.write("stdout", message ? `${message} ` : "");
      return null;
    }
    this.post(message);
    const value = this.link.waitForInput();
    if (value === undefined) this.program.exit(130);
    return value === null ? null : value || initial;
  }

  canAsk() {
    const run = this.context.current();
    return run !== null && run === this.program.active && run.canAsk;
  }

  post(prompt) {
    this.link.postInOrder({ kind: "ask", prompt, password: false });
  }
}


module.exports = { ProgramInput };
