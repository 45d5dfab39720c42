"use strict";
/** Finds the errors that nothing in the program handles. */

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
      queueMicrotask(() => {
        if (!isHandled) program.onUncaught(error, type === "unhandledrejection");
      });
    });
  watch("error", "uncaughtException", (event) => event.error);
  watch("unhandledrejection", "unhandledRejection", (event) => event.reason);
}

module.exports = { installUncaught };
