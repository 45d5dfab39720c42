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
    const prompt = early.makeForeign((message = "", initial = "") =>
      this.prompt(String(message), String(initial)),
    );
    const descriptor = { value: prompt, writable: true, configurable: true, enumerable: false };
    Object.defineProperty(globalThis, "prompt", descriptor);
  }

  /** Prepares for a run: what an earlier one waited for is forgotten. */
  begin() {
    this.reader = null;
    this.stream?.forget();
  }

  /** Returns the stream; a new one when the last was read to its end. */
  current() {
    if (this.stream === null || this.stream.destroyed || this.stream.readableEnded) {
      this.stream = this.makeStream();
    }
    return this.stream;
  }

  makeStream() {
    const stream = new InputStream((onLine) => this.ask(onLine), () => this.setWaiting(false));
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
    this.setWaiting(true);
    this.post(this.output.openLine);
  }

  /** Says whether the program waits for an answer: then its run goes on. */
  setWaiting(isWaiting) {
    const run = this.program.active;
    if (run === null || run.isEnding) return;
    if (isWaiting) this.link.ref();
    else this.link.unref();
  }

  onAnswer(value) {
    const { reader } = this;
    this.reader = null;
    this.setWaiting(false);
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

/** Asks for a line only while somebody reads: a paused stream asks for none. */
class InputStream extends Readable {
  constructor(ask, onPause) {
    super();
    Object.defineProperties(this, {
      askForLine: { value: ask },
      tellPause: { value: onPause },
      isAsking: { value: false, writable: true },
      isWanted: { value: false, writable: true },
    });
  }

  /** Notes that no answer comes any more. */
  forget() {
    if (this.isAsking) this.isWanted = true;
    this.isAsking = false;
  }

  _read() {
    this.isWanted = true;
    // After what the program does with the line before.
    early.setImmediate(() => this.askIfWanted());
  }

  askIfWanted() {
    // With a listener of `readable`, data does not flow, and is wanted all the same.
    const isPaused = this.isPaused() && !this.listenerCount("readable");
    if (!this.isWanted || this.isAsking || isPaused || this.destroyed) return;
    this.isWanted = false;
    this.isAsking = true;
    this.askForLine((line) => {
      this.isAsking = false;
      this.push(line);
    });
  }

  pause() {
    if (this.isAsking) this.tellPause();
    return super.pause();
  }

  resume() {
    if (this.isWanted) early.setImmediate(() => this.askIfWanted());
    return super.resume();
  }
}

// What Node has there.
Object.defineProperty(InputStream, "name", { value: "ReadStream" });

module.exports = { ProgramInput };
