"use strict";
/** Parts of Deno that are not for programs; they are why the version is pinned. */

const early = require("../../node/kernel/early.js");

const internal = Deno[Deno.internal];
const { core } = internal;
const { exit } = Deno;
const resolved = Promise.resolve();
// Tells Deno that the program's listeners have been called.
const UNLOADED = Symbol.for("Deno.isUnloadDispatched");

module.exports = {
  Console: internal.Console,
  closeResource: core.tryClose,
  /** Ends the process; `process.reallyExit` would call what `Deno.exit` is then, the program's. */
  endProcess: (code) => {
    globalThis[UNLOADED] = true;
    exit(code);
  },
  evaluateAs: (code, file) => core.evalContext(code, file)[0],
  /** Returns a list that holds all promises that come into being until `stop()` is called. */
  holdNewPromises: () => {
    const held = [];
    core.setPromiseHooks((promise) => held.push(promise));
    return { held, stop: () => core.setPromiseHooks() };
  },
  hasMoreWork: core.eventLoopHasMoreWork,
  resources: core.resources,
  /**
   * Calls a function from the event loop: later than all microtasks, of which there may be no end. It
   * is one itself: when it is stopped, Deno's list of immediates and the context of calls are whole.
   */
  soon: (action) => void early.setImmediate(() => void early.then(resolved, action)),
};
