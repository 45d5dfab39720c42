"use strict";
/** Deno's inspector: a WebSocket by which the worker commands the main thread. */

const { EventEmitter } = require("node:events");
const inspector = require("node:inspector");

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

  receive({ id, result, error, method, params }) {
    if (id === undefined) {
      this.emit(method, { params });
      return;
    }
    this.callbacks.get(id)?.(error, result);
    this.callbacks.delete(id);
  }
}

module.exports = { InspectorClient, openInspector };
