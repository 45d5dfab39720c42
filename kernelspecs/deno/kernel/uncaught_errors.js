"use strict";
/** Finds the errors that nothing in the program handles. */

const early = require("../../node/kernel/early.js");

const STOPPED_MS = 100;

/** Tells the program of uncaught errors and of rejections that nobody handles. */
function installUncaught(program) {
  const watch = (type, nodeName, getError) =>
    globalThis.addEventListener(type, (event) => {
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
      if (process.listenerCount(nodeName)) return;
      const error = getError(event);
      const tell = () => {
        if (!isHandled) program.onUncaught(error, type === "unhandledrejection");
      };
      // Deno reports code that was stopped like this, too; then the run has ended until then.
      if (error === null) early.setTimeout(tell, STOPPED_MS);
      else queueMicrotask(tell);
    });
  watch("error", "uncaughtException", (event) => event.error);
  watch("unhandledrejection", "unhandledRejection", (event) => event.reason);
}

module.exports = { installUncaught };
