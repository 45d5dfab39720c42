"use strict";
/** Parts of Deno that are not for programs; they are why the version is pinned. */

const internal = Deno[Deno.internal];
const { core } = internal;
const { exit, stat } = Deno;
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
  /** Calls a function from the event loop, in a step that nothing else is part of. */
  soon: (action) => void stat("/").then(action, action),
};
