"use strict";
/** The main thread as the worker sees it: messages to and from it, and what stops it. */

const fs = require("node:fs");
const { Session } = require("node:inspector");
const { receiveMessageOnPort } = require("node:worker_threads");

const { ANSWER_COUNT, FLUSH_COUNT } = require("./shared_state.js");

class MainThread {
  /**
   * `onMessage` is called with all messages but those that a mark stands for; without pipes there
   * are no marks, and these messages go to `onMarked` at once.
   */
  constructor({ pipes, port, shared, stderr }, onMessage, onMarked) {
    this.onMarked = pipes ? null : onMarked;
    this.port = port;
    this.shared = new Int32Array(shared);
    this.stderr = stderr;
    this.onMessage = onMessage;
    this.marked = new Map(); // messages whose marks have not been met, by number
    this.session = null;
  }

  /** Receives messages from here on. */
  start() {
    this.port.on("message", (message) => this.receive(message));
  }

  post(message) {
    this.port.postMessage(message);
  }

  receive(message) {
    if (message.mark === undefined) this.onMessage(message);
    else if (this.onMarked === null) this.marked.set(message.mark, message);
    else this.onMarked(message);
  }

  /** Returns the message of a mark, which was posted before the mark was written. */
  take(number) {
    while (!this.marked.has(number)) {
      const received = receiveMessageOnPort(this.port);
      if (received === undefined) return undefined;
      this.receive(received.message);
    }
    const message = this.marked.get(number);
    this.marked.delete(number);
    return message;
  }

  /** Asks the event loop for a sign of life; resolves to whether it came within `ms`. */
  async isResponsive(ms) {
    const before = Atomics.load(this.shared, ANSWER_COUNT);
    this.post({ kind: "ping" });
    const end = performance.now() + ms;
    do {
      await new Promise((resolve) => setTimeout(resolve, 1));
      if (Atomics.load(this.shared, ANSWER_COUNT) !== before) return true;
    } while (performance.now() < end);
    return false;
  }

  /** Returns the inspector's session with the main thread. */
  connect() {
    if (this.session === null) {
      this.session = new Session();
      this.session.connectToMainThread();
    }
    return this.session;
  }

  /** Sends a command of the inspector's protocol; rejects when it fails or takes too long. */
  command(method, params = {}, ms = 1000) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${method} takes too long`)), ms);
      this.connect().post(method, params, (error, result) => {
        clearTimeout(timer);
        if (error) reject(new Error(error.message));
        else resolve(result);
      });
    });
  }

  /** Stops the code that the main thread runs now; no handler of the program can catch that. */
  terminate(ms) {
    return this.command("Runtime.terminateExecution", {}, ms);
  }

  noteFlush() {
    Atomics.add(this.shared, FLUSH_COUNT, 1);
    Atomics.notify(this.shared, FLUSH_COUNT);
  }

  endProcess(code) {
    this.post({ kind: "exit", code });
    // When the main thread is busy, it never gets that message.
    setTimeout(() => process.kill(process.pid, "SIGKILL"), 300);
  }

  logFault(error) {
    try {
      fs.writeSync(this.stderr, `${error?.stack ?? error}\n`);
    } catch {
      // nobody reads it
    }
  }
}

module.exports = { MainThread };
