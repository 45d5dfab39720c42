"use strict";
/** Parts of Deno that are not for programs; they are why the version is pinned. */

const internal = Deno[Deno.internal];
const { core } = internal;
const { stat } = Deno;

module.exports = {
  Console: internal.Console,
  closeResource: core.tryClose,
  evaluateAs: (code, file) => core.evalContext(code, file)[0],
  hasMoreWork: core.eventLoopHasMoreWork,
  resources: core.resources,
  /** Calls a function from the event loop, in a step that nothing else is part of. */
  soon: (action) => void stat("/").then(action, action),
};
