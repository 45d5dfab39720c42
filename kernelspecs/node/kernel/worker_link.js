"use strict";
/** The main thread's side of the worker: messages, and marks in the pipes. */

const path = require("node:path");
const { MessageChannel, Worker, receiveMessageOnPort } = require("node:worker_threads");

const { byteLength, setTimeout, writeSync } = require("./early.js");
const { makeMark, makeSecret } = require("./pipe_marks.js");
const shared = require("./shared_state.js");

const FLUSH_MS = 1000; // after which the process ends without, when nobody reads
const MAX_FLUSH_MS = 8000; // for those who read slowly
const WORKER_YOUNG_MB = 12; // of objects that live for one message; V8 itself would take 96
const RETRY_MS = 1; // where a child has made the pipe one that does not wait
const WORKER_FILE = path.join(__dirname, "wire_worker_main.js");

class WorkerLink {
  /** `workerFile` is what the worker runs; `more` is data that only it knows. */
  constructor({ connection, pipes, stderr, language, zeromq, workerFile = WORKER_FILE, more = {} }) {
    const secret = makeSecret();
    this.stderr = stderr;
    this.secret = secret;
    this.hasPipes = pipes !== null;
    this.count = 0;
    this.descriptor = 1; // into which the program wrote last
    this.shared = new Int32Array(new SharedArrayBuffer(4 * shared.SIZE));
    const { port1, port2 } = new MessageChannel();
    this.port = port1;
    this.onMessage = () => {};
    const data = { connection, pipes, stderr, language, zeromq, secret, ...more };
    this.worker = new Worker(workerFile, {
      workerData: { ...data, port: port2, shared: this.shared.buffer },
      transferList: [port2],
      execArgv: [],
      resourceLimits: { maxYoungGenerationSizeMb: WORKER_YOUNG_MB },
      stdin: false,
      stdout: true, // else Node would open descriptors 1 and 2 as streams, for what nobody writes
      stderr: true,
    });
    this.worker.unref();
    this.port.on("message", (message) => this.receive(message));
  }

  receive(message) {
    if (message.kind === "ping") Atomics.add(this.shared, shared.ANSWER_COUNT, 1);
    else this.onMessage(message);
  }

  /** Lets the event loop end, as the program's own handles alone keep it going. */
  unref() {
    this.port.unref();
  }

  ref() {
    this.port.ref();
  }

  post(message) {
    this.port.postMessage(message);
  }

  /** Posts a message that the worker handles when it has read all output of before. */
  postInOrder(message) {
    const mark = ++this.count;
    this.port.postMessage({ ...message, mark });
    if (this.hasPipes) this.writeMarks(mark, true);
  }

  /** Writes output of the program to descriptor 1 or 2, at once. */
  write(descriptor, data) {
    if (!this.hasPipes) {
      const name = descriptor === 1 ? "stdout" : "stderr";
      const bytes = typeof data === "string" ? Buffer.from(data) : Uint8Array.from(data);
      this.port.postMessage({ kind: "text", name, bytes, mark: ++this.count });
      return;
    }
    if (descriptor !== this.descriptor) {
      this.descriptor = descriptor;
      this.writeMarks(++this.count, false);
    }
    this.writeAll(descriptor, data);
  }

  writeMarks(number, isMessage) {
    const mark = makeMark(this.secret, number, isMessage);
    const isWritten = [this.writeAll(1, mark), this.writeAll(2, mark)];
    if (isWritten.includes(true)) return;
    // The program has closed both: what it prints by itself goes another way from here on.
    this.hasPipes = false;
    this.port.postMessage({ kind: "closed", number });
  }

  /** Returns whether the descriptor was open. */
  writeAll(descriptor, data) {
    let bytes = data;
    for (;;) {
      try {
        const written = writeSync(descriptor, bytes);
        if (typeof bytes === "string") {
          if (written >= bytes.length && written === byteLength(bytes)) return true;
          bytes = Buffer.from(bytes);
        }
        if (written === bytes.length) return true;
        bytes = bytes.subarray(written);
      } catch (error) {
        if (error.code !== "EAGAIN") return false; // closed by the program: there is nobody to tell
        Atomics.wait(this.shared, shared.ALWAYS_ZERO, 0, RETRY_MS);
        if (typeof bytes === "string") bytes = Buffer.from(bytes);
      }
    }
  }

  /**
   * Waits, and stops this thread meanwhile, until the worker has published all output of before:
   * what is in the pipes when the process dies is lost.
   */
  waitForOutput() {
    if (!this.hasPipes) return;
    const before = Atomics.load(this.shared, shared.FLUSH_COUNT);
    this.postInOrder({ kind: "flush" });
    for (let sent = null, waited = 0; waited < MAX_FLUSH_MS; waited += FLUSH_MS) {
      const result = Atomics.wait(this.shared, shared.FLUSH_COUNT, before, FLUSH_MS);
      const count = Atomics.load(this.shared, shared.SENT_COUNT);
      if (result !== "timed-out" || count === sent) return;
      sent = count;
    }
  }

  /** Lets the worker end its sockets, and waits for that before the process ends. */
  waitForEnd(code) {
    this.post({ kind: "exit", code });
    for (let waited = 0; waited < FLUSH_MS; waited += RETRY_MS) {
      for (let got = this.takeMessage(); got !== undefined; got = this.takeMessage()) {
        if (got.kind === "exit") return;
      }
      Atomics.wait(this.shared, shared.ALWAYS_ZERO, 0, RETRY_MS);
    }
  }

  /** Tells a fault of the kernel to whoever has started it. */
  logFault(error) {
    try {
      writeSync(this.stderr, `${error?.stack ?? error}\n`);
    } catch {
      // nobody reads it
    }
  }

  /** Waits, and stops this thread meanwhile, for an answer to a request for input. */
  waitForInput() {
    for (;;) {
      const before = Atomics.load(this.shared, shared.INPUT_READY);
      for (let got = this.takeMessage(); got !== undefined; got = this.takeMessage()) {
        if (got.kind === "input") return got.value;
        if (got.kind === "interrupt") return undefined;
        if (got.kind === "ping") this.receive(got);
        else setTimeout(() => this.receive(got), 0);
      }
      Atomics.wait(this.shared, shared.INPUT_READY, before, 50);
    }
  }

  /** Handles the messages that wait, before the event loop does. */
  receiveWaiting() {
    for (let got = this.takeMessage(); got !== undefined; got = this.takeMessage()) {
      this.receive(got);
    }
  }

  takeMessage() {
    return receiveMessageOnPort(this.port)?.message;
  }
}

module.exports = { WorkerLink };
