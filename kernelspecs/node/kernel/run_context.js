"use strict";
/**
 * Finds the run that a piece of code belongs to, also in callbacks that it left behind.
 *
 * Newer versions of Node carry that along with every callback, at no cost. In older ones it would
 * triple the cost of each `await`: there, only timers know the run that made them.
 */

const { AsyncLocalStorage } = require("node:async_hooks");

const FREE_SINCE = 24; // the major version in which AsyncLocalStorage became cheap

class RunContext {
  constructor() {
    const isFree = Number(process.versions.node.split(".")[0]) >= FREE_SINCE;
    this.storage = isFree ? new AsyncLocalStorage() : null;
    this.caller = null; // the run of the timer whose callback is being called
    this.failed = null; // the run of a timer whose callback has thrown, or was stopped
    this.latest = null;
  }

  /** Makes `run` the one that code belongs to where nothing else is known. */
  begin(run) {
    this.latest = run;
    this.caller = this.failed = null; // a callback that was stopped has left itself there
  }

  /** Calls a function that is code of `run`. */
  enter(run, action) {
    if (this.storage !== null) return this.storage.run(run, action);
    return action();
  }

  /** Returns the run of the code that has just thrown an error which nothing caught. */
  takeFailed() {
    const run = this.failed ?? this.current();
    this.failed = null;
    return run;
  }

  /** Returns the run of the calling code. */
  current() {
    return this.storage?.getStore() ?? this.caller ?? this.latest;
  }
}

module.exports = { RunContext };
