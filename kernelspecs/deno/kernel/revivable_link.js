"use strict";
/** The main thread's side of the worker, by ports that are replaced when code was stopped. */

const path = require("node:path");
const { MessageChannel, receiveMessageOnPort } = require("node:worker_threads");

const { IS_STOPPING } = require("../../node/kernel/shared_state.js");
const { WorkerLink } = require("../../node/kernel/worker_link.js");

const WORKER_FILE = path.join(__dirname, "wire_worker_main.cjs");

class RevivableLink extends WorkerLink {
  /** `inspectorUrl` is the address of this thread's inspector; null where there is none. */
  constructor({ inspectorUrl, ...options }) {
    super({ ...options, workerFile: WORKER_FILE, more: { inspectorUrl } });
    this.canStop = inspectorUrl !== null; // code, and go on after that
    this.oldPorts = []; // that the worker may still use
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
    this.oldPorts.push(this.port);
    const { port1, port2 } = new MessageChannel();
    this.port = port1;
    port1.on("message", (message) => {
      if (message.kind === "ping") this.receiveOld(port1);
      this.receive(message);
    });
    this.worker.postMessage(port2, [port2]);
  }

  /** Returns whether code is being stopped, of which this thread will be told. */
  get isStopping() {
    return Atomics.load(this.shared, IS_STOPPING) !== 0;
  }

  receive(message) {
    if (message.kind === "wake" || message.kind === "run") Atomics.store(this.shared, IS_STOPPING, 0);
    super.receive(message);
  }

  /** Handles what came by older ports before the worker knew this one. */
  receiveOld(port) {
    const count = this.oldPorts.indexOf(port);
    for (const old of this.oldPorts.splice(0, count < 0 ? this.oldPorts.length : count)) {
      for (let got = receiveMessageOnPort(old); got !== undefined; got = receiveMessageOnPort(old)) {
        this.receive(got.message);
      }
      old.close();
    }
  }
}

module.exports = { RevivableLink };
