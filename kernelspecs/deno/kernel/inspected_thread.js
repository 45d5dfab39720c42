"use strict";
/** The main thread as the worker sees it, with Deno's inspector as the means to stop it. */

const { parentPort, receiveMessageOnPort } = require("node:worker_threads");

const { MainThread } = require("../../node/kernel/main_thread.js");
const { InspectorClient, startWorkersAtOnce } = require("./inspector.js");

const REVIVE_MS = 1000;

class InspectedThread extends MainThread {
  constructor(data, onMessage, onMarked) {
    super(data, onMessage, onMarked);
    this.inspectorUrl = data.inspectorUrl;
    this.onPort = () => {};
    this.waiting = []; // messages, until the inspector is there
  }

  start() {
    super.start();
    parentPort.on("message", (port) => this.usePort(port));
    this.postWaiting();
  }

  /** Posts what waits for the inspector, which may be known to be unusable by then. */
  async postWaiting() {
    if (this.inspectorUrl !== null) {
      await this.connect().opened.catch(() => {});
      startWorkersAtOnce(this.session);
    }
    const messages = this.waiting;
    this.waiting = null;
    for (const message of messages) this.post(message);
  }

  connect() {
    if (this.inspectorUrl === null) throw new Error("there is no inspector");
    this.session ??= new InspectorClient(this.inspectorUrl);
    return this.session;
  }

  /** Posts a message; no code is run before it can be stopped. */
  post(message) {
    if (this.waiting !== null) this.waiting.push(message);
    else if (message.kind === "wake" && this.inspectorUrl !== null) this.reviveThenPost(message);
    else super.post(message);
  }

  /** Lets go of the inspector first: while it has a client, it keeps a process from ending for 500 ms. */
  async endProcess(code) {
    await this.session?.close();
    super.endProcess(code);
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
