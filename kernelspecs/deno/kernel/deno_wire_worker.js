"use strict";
/** What the worker thread of Deno's kernel does beside that of Node's. */

const { WireWorker } = require("../../node/kernel/wire_worker.js");
const { describeKernel } = require("./kernel_info.js");
const { InspectedThread } = require("./inspected_thread.js");

const STOP_MS = 2000;

class DenoWireWorker extends WireWorker {
  constructor() {
    super({ Main: InspectedThread, directory: __dirname });
    this.info = describeKernel();
    this.hasBegun = false;
    const { onText } = this.merger;
    // What Deno itself says of its inspector comes before the first run.
    this.merger.onText = (name, bytes) => this.hasBegun && onText(name, bytes);
  }

  onMainMessage(message) {
    if (message.kind === "stop") this.stop();
    else super.onMainMessage(message);
  }

  /** Stops the code of the main thread, which waits for that: a program that exits. */
  async stop() {
    const isDone = this.interrupts.runWatcher();
    await this.main.terminate(STOP_MS).catch((error) => this.main.logFault(error));
    if (!isDone()) this.main.post({ kind: "wake" });
  }

  onMark(message) {
    this.hasBegun = true;
    super.onMark(message);
  }
}

module.exports = { DenoWireWorker };
