"use strict";
/** The main thread's side of the worker, by ports that are replaced when code was stopped. */

const path = require("node:path");
const { MessageChannel, receiveMessageOnPort } = require("node:worker_threads");

const { WorkerLink } = require("../../node/kernel/worker_link.js");

const WORKER_FILE = path.join(__dirname, "worker_main.cjs");

class RevivableLink extends WorkerLink {
  /** `inspectorUrl` is the address of this thread's inspector; null where there is none. */
  constructor({ inspectorUrl, ...options }) {
    super({ ...options, workerFile: WORKER_FILE, more: { inspectorUrl } });
    this.canStop = inspectorUrl !== null; // code, and go on after that
    this.oldPort = null;
    this.hasBegun = new Promise((resolve) => this.worker.once("message", resolve));
  }

  /** Has the worker stop the code that runs now; nothing can catch that. Never returns. */
  waitToBeStopped() {
    this.post({ kind: "stop" });
    for (;;);
  }

  /** Makes a new port, for what receives from the old one may have been stopped. */
  revive() {
    this.receiveWaiting();
    this.oldPort = this.port;
    const { port1, port2 } = new MessageChannel();
    this.port = port1;
    this.port.on("message", (message) => this.receive(message));
    this.worker.postMessage(port2, [port2]);
  }

  receive(message) {
    if (message.kind === "ping" && this.oldPort !== null) this.receiveOld();
    super.receive(message);
  }

  /** Handles what came by the old port before the worker knew the new one. */
  receiveOld() {
    const port = this.oldPort;
    this.oldPort = null;
    for (let got = receiveMessageOnPort(port); got !== undefined; got = receiveMessageOnPort(port)) {
      this.receive(got.message);
    }
    port.close();
  }
}

module.exports = { RevivableLink };
