"use strict";
/** Deno's inspector: a WebSocket by which the worker commands the main thread. */

const { EventEmitter } = require("node:events");
const inspector = require("node:inspector");

const CLOSE_MS = 50;

/** Opens the inspector of this thread; returns its address, or null where no socket can be had. */
function openInspector() {
  try {
    inspector.open(0, "127.0.0.1", false);
    return inspector.url() ?? null;
  } catch {
    return null;
  }
}

/** Does what `Session` of `node:inspector` does, for another thread; emits its notifications. */
class InspectorClient extends EventEmitter {
  constructor(url) {
    super();
    this.count = 0;
    this.callbacks = new Map(); // of commands without an answer
    this.socket = new WebSocket(url);
    this.socket.onmessage = ({ data }) => this.receive(JSON.parse(data));
    this.opened = new Promise((resolve, reject) => {
      this.socket.onopen = resolve;
      this.socket.onerror = () => reject(new Error("the inspector cannot be reached"));
    });
    this.opened.catch(() => {}); // whoever sends a command is told
  }

  /** Sends a command; `callback(error, result)` gets the answer. */
  post(method, params, callback) {
    const id = ++this.count;
    this.callbacks.set(id, callback);
    this.opened.then(
      () => this.socket.send(JSON.stringify({ id, method, params })),
      (error) => callback(error),
    );
  }

  /** Closes the connection; resolves when that is done. */
  async close() {
    const isClosed = new Promise((resolve) => {
      this.socket.onclose = resolve;
      Deno.unrefTimer(setTimeout(resolve, CLOSE_MS)); // a run would wait for it
    });
    this.socket.close();
    await isClosed;
  }

  receive({ id, result, error, method, params }) {
    if (id === undefined) {
      this.emit(method, { params });
      return;
    }
    this.callbacks.get(id)?.(error, result);
    this.callbacks.delete(id);
  }
}

/**
 * Lets workers begin at once: in `deno repl` they wait half a second for a client of the inspector to
 * say so. Resolves when that is prepared, or cannot be; `onLet` is called when a worker was let begin.
 */
function startWorkersAtOnce(client, onLet = () => {}) {
  const message = JSON.stringify({ id: 1, method: "Runtime.runIfWaitingForDebugger" });
  client.on("NodeWorker.attachedToWorker", ({ params: { sessionId } }) =>
    client.post("NodeWorker.sendMessageToWorker", { sessionId, message }, onLet),
  );
  const params = { waitForDebuggerOnStart: false };
  return new Promise((resolve) => client.post("NodeWorker.enable", params, resolve));
}

module.exports = { InspectorClient, openInspector, startWorkersAtOnce };
