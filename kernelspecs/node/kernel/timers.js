"use strict";
/**
 * Puts functions in the places of those that make timers, to end all timers of a run at once.
 *
 * Callbacks of `setImmediate` are called by `process.nextTick`: Node's list of immediates does not
 * survive that one of them is stopped. What a program sees, and its order, are the same.
 */

const timers = require("node:timers");

const early = require("./early.js");

const { apply } = Reflect;

class RunTimers {
  constructor(context) {
    this.context = context;
  }

  install() {
    const made = {
      setTimeout: this.wrapTimer(early.setTimeout, true),
      setInterval: this.wrapTimer(early.setInterval, false),
      setImmediate: this.wrapImmediate(),
    };
    for (const [name, wrapper] of Object.entries(made)) {
      const original = globalThis[name];
      const descriptors = Object.getOwnPropertyDescriptors(original);
      delete descriptors.prototype;
      Object.defineProperties(wrapper, descriptors);
      early.makeForeign(wrapper);
      globalThis[name] = wrapper;
      timers[name] = wrapper;
    }
  }

  /** Ends all timers of a run. */
  clear(run) {
    for (const timer of run.timers) {
      early.clearTimeout(timer);
      early.clearImmediate(timer);
    }
    run.timers.clear();
  }

  wrapTimer(make, isOnce) {
    const { context } = this;
    return function (callback, delay, ...args) {
      if (typeof callback !== "function") return make(callback, delay);
      const run = context.current();
      const timer = make(
        function () {
          if (run?.isDead) return;
          const before = context.caller;
          context.caller = context.failed = run;
          try {
            apply(callback, this, args);
            context.failed = null;
          } finally {
            context.caller = before;
            // Not when the callback is stopped: then Node has not finished with the timer, and
            // clearing it puts Node's count of timers right.
            if (isOnce) run?.timers.delete(timer);
          }
        },
        delay,
      );
      run?.timers.add(timer);
      return timer;
    };
  }

  wrapImmediate() {
    const { context } = this;
    return function (callback, ...args) {
      if (typeof callback !== "function") return early.setImmediate(callback);
      const run = context.current();
      const immediate = early.setImmediate(() => {
        run?.timers.delete(immediate);
        if (!run?.isDead) early.nextTick(() => apply(callback, immediate, args));
      });
      run?.timers.add(immediate);
      return immediate;
    };
  }
}

module.exports = { RunTimers };
