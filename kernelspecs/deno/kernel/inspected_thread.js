"use strict";
/** The main thread as the worker sees it, with Deno's inspector as the means to stop it. */

const { parentPort, receiveMessageOnPort } = require("node:worker_threads");

const { MainThread } = require("../../node/kernel/main_thread.js");
const { IS_STOPPING } = require("../../node/kernel/shared_state.js");
const { InspectorClient, startWorkersAtOnce } = require("./inspector.js");

const REVIVE_MS = 150;
const REVIVE_ATTEMPTS = 12;

class InspectedThread extends MainThread {
  constructor(data, onMessage, onMarked) {
    super(data, onMessage, onMarked);
    this.inspectorUrl = data.inspectorUrl;
    this.onPort = () => {};
    this.waiting = []; // messages, until the inspector is there, and while code is stopped
    this.stopCount = 1; // for what messages wait: the inspector, and stops
    this.lastStop = Promise.resolve();
    this.onMissing = onMarked;
    this.missing = new Set(); // numbers of marks whose messages are on their way by a new port
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
    this.release();
  }

  postAll() {
    const messages = this.waiting;
    this.waiting = null;
    for (const message of messages) this.post(message);
  }

  connect() {
    if (this.inspectorUrl === null) throw new Error("there is no inspector");
    this.session ??= new InspectorClient(this.inspectorUrl);
    return this.session;
  }

  take(number) {
    const message = super.take(number);
    if (message === undefined) this.missing.add(number);
    return message;
  }

  receive(message) {
    if (this.missing.delete(message.mark)) this.onMissing(message);
    else super.receive(message);
  }

  /** Posts a message; not before code can be stopped, and not while it is. */
  post(message) {
    if (this.waiting !== null) this.waiting.push(message);
    else super.post(message);
  }

  /** Lets go of the inspector first: while it has a client, it keeps a process from ending for 500 ms. */
  async endProcess(code) {
    await this.session?.close();
    super.endProcess(code);
  }

  /**
   * Stops the code of the main thread, one stop after the other. Code that was stopped may have taken
   * the end of the main thread's port with it, whether or not its run is over: the port is replaced
   * before anything else is posted.
   */
  terminate(ms) {
    Atomics.store(this.shared, IS_STOPPING, 1);
    this.waiting ??= [];
    this.stopCount += 1;
    const isStopped = this.lastStop.then(() => this.stopAndRevive(ms));
    this.lastStop = isStopped.catch(() => {}).then(() => this.release());
    return isStopped;
  }

  async stopAndRevive(ms) {
    await super.terminate(ms);
    for (let attempt = 0; attempt < REVIVE_ATTEMPTS; attempt++) {
      if (await this.revive()) return;
      await super.terminate(ms); // what was stopped goes on in another callback
    }
  }

  /** Posts what has waited for the end of the last stop. */
  release() {
    this.stopCount -= 1;
    if (this.stopCount === 0) this.postAll();
  }

  /** Has the main thread make a new port; resolves to whether it did. */
  revive() {
    return new Promise((resolve) => {
      const timer = setTimeout(() => resolve(false), REVIVE_MS);
      this.onPort = () => {
        clearTimeout(timer);
        resolve(true);
      };
      const expression = "__era.revive()";
      this.command("Runtime.evaluate", { expression }, REVIVE_MS).catch(() => {});
    });
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
    super.post({ kind: "ping" }); // the main thread looks for what was sent by the old port
  }
}

module.exports = { InspectedThread };
