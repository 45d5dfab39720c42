"use strict";
/** The main thread as the worker sees it, with Deno's inspector as the means to stop it. */

const { parentPort, receiveMessageOnPort } = require("node:worker_threads");

const { MainThread } = require("../../node/kernel/main_thread.js");
const { InspectorClient } = require("./inspector.js");

const REVIVE_MS = 1000;

class InspectedThread extends MainThread {
  constructor(data, onMessage, onMarked) {
    super(data, onMessage, onMarked);
    this.inspectorUrl = data.inspectorUrl;
    this.onPort = () => {};
  }

  start() {
    super.start();
    parentPort.on("message", (port) => this.usePort(port));
  }

  connect() {
    if (this.inspectorUrl === null) throw new Error("there is no inspector");
    this.session ??= new InspectorClient(this.inspectorUrl);
    return this.session;
  }

  /** Resolves when the inspector can be used, or is known to be unusable. */
  async whenConnected() {
    if (this.inspectorUrl !== null) await this.connect().opened.catch(() => {});
  }

  post(message) {
    if (message.kind === "wake" && this.inspectorUrl !== null) this.reviveThenPost(message);
    else super.post(message);
  }

  /** Code that was stopped may have taken the end of the main thread's port with it. */
  async reviveThenPost(message) {
    const isReplaced = new Promise((resolve) => {
      this.onPort = resolve;
      setTimeout(resolve, REVIVE_MS);
    });
    const expression = "__era.revive()";
    await this.command("Runtime.evaluate", { expression }, REVIVE_MS).catch(() => {});
    await isReplaced;
    super.post(message);
  }

  /** Goes on with a new port; what has come by the old one comes first. */
  usePort(port) {
    const old = this.port;
    for (;;) {
      const received = receiveMessageOnPort(old);
      if (received === undefined) break;
      this.receive(received.message);
    }
    this.port = port;
    port.on("message", (message) => this.receive(message));
    this.onPort();
    this.post({ kind: "ping" }); // the main thread looks for what was sent by the old port
  }
}

module.exports = { InspectedThread };
