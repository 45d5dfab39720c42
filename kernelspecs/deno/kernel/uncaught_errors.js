"use strict";
/** Finds the errors that nothing in the program handles. */

const early = require("../../node/kernel/early.js");

const STOPPED_MS = 100;
const LATER = queueMicrotask; // as it is before any code of a program

/** Tells the program of uncaught errors and of rejections that nobody handles. */
function installUncaught(program) {
  const listeners = listenersOf(globalThis);
  const isListenedTo = (type) => listeners[type].length > 1;
  globalThis.addEventListener("unhandledrejection", (event) => {
    if (process.listenerCount("unhandledRejection")) return; // Deno calls them after all others
    const isHandled = takeOver(event);
    LATER(() => isHandled() || program.onUncaught(event.reason, true));
  });
  globalThis.addEventListener("error", (event) => {
    const { error } = event;
    if (error === null && event.filename) return; // a worker's: its maker rejects a promise then
    const isHandled = takeOver(event);
    if (process.listenerCount("uncaughtException")) return;
    const tell = () => isHandled() || program.onUncaught(error, false);
    // Deno reports code that was stopped like this, too; then the run has ended until then.
    if (error === null) early.setTimeout(tell, STOPPED_MS);
    else if (isListenedTo("error")) LATER(tell);
    else tell(); // at once: what the code around an event does next is seen no more
  });
}

/** Prevents what Deno does after an event; returns a function that tells whether others did so. */
function takeOver(event) {
  // The program's own listeners come later, and may prevent what would happen then.
  let isHandled = false;
  const prevent = event.preventDefault.bind(event);
  Object.defineProperty(event, "preventDefault", {
    configurable: true,
    value: () => {
      isHandled = true;
    },
  });
  prevent();
  return () => isHandled;
}

/** Returns the lists of listeners of a target of events, by their types. */
function listenersOf(target) {
  for (const symbol of Object.getOwnPropertySymbols(target)) {
    if (target[symbol]?.listeners !== undefined) return target[symbol].listeners;
  }
  throw new Error("Deno keeps its listeners elsewhere");
}

module.exports = { installUncaught, listenersOf };
