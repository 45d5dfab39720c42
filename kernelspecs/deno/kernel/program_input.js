"use strict";
/** Asks those who follow the run for a line when the program reads its input. */

const { ProgramInput: NodeInput } = require("../../node/kernel/program_input.js");

const encoder = new TextEncoder();

class ProgramInput extends NodeInput {
  install(output) {
    super.install(output);
    this.rest = new Uint8Array(0); // of a line that was read in part
    this.installStdin();
    const options = { writable: true, configurable: true };
    const define = (name, value) =>
      Object.defineProperty(globalThis, name, { value, ...options, enumerable: true });
    const question = globalThis.prompt;
    define("prompt", (message = "Prompt", initial) => this.promptLikeDeno(question, message, initial));
    define("confirm", (message = "Confirm") => /^[yY]$/.test(this.answer(`${message} [y/N]`) ?? ""));
    define("alert", (message = "Alert") => void this.answer(`${message} [Enter]`));
  }

  /** Deno asks nobody where nobody can answer, and prints nothing then. */
  promptLikeDeno(question, message, initial) {
    if (!this.canAsk()) return null;
    const value = this.answer(initial === undefined ? `${message}` : `${message} [${initial}]`);
    return value === null ? null : value || (initial === undefined ? "" : `${initial}`);
  }

  /** Returns a line; null when nobody answers. */
  answer(message) {
    if (!this.canAsk()) return null;
    this.post(`${message} `);
    const value = this.link.waitForInput();
    if (value === undefined) this.program.exit(130);
    return value;
  }

  installStdin() {
    const take = (line, buffer) => {
      if (line !== null) this.rest = typeof line === "string" ? encoder.encode(line) : line;
      if (!this.rest.length) return null;
      const count = Math.min(buffer.length, this.rest.length);
      buffer.set(this.rest.subarray(0, count));
      this.rest = this.rest.subarray(count);
      return count;
    };
    const readSync = (buffer) => {
      if (this.rest.length || !this.canAsk()) return take(null, buffer);
      this.post(this.output.openLine);
      const value = this.link.waitForInput();
      if (value === undefined) this.program.exit(130);
      return take(value === null ? null : `${value}\n`, buffer);
    };
    const read = async (buffer) => {
      if (this.rest.length) return take(null, buffer);
      return take(await new Promise((resolve) => this.ask(resolve)), buffer);
    };
    const readable = () =>
      new ReadableStream({
        type: "bytes",
        autoAllocateChunkSize: 65536,
        pull: async (controller) => {
          const { view } = controller.byobRequest;
          const count = await read(view);
          if (count === null) controller.close();
          controller.byobRequest.respond(count ?? 0);
        },
      });
    const options = { configurable: true, enumerable: false };
    Object.defineProperties(Deno.stdin, {
      read: { value: read, writable: true, ...options },
      readSync: { value: readSync, writable: true, ...options },
      readable: { get: readable, ...options },
    });
  }

  begin() {
    super.begin();
    this.rest = new Uint8Array(0);
  }

  /** Says whether the program waits for an answer: then its run goes on. */
  setWaiting(isWaiting) {
    if (isWaiting) this.waiting ??= setInterval(() => {}, 1 << 30);
    else {
      clearInterval(this.waiting);
      this.waiting = undefined;
    }
  }
}

module.exports = { ProgramInput };
