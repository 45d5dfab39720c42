"use strict";
/** What a program is told at its end, and by which of its functions. */

const early = require("../../node/kernel/early.js");
const { listenersOf } = require("./uncaught_errors.js");

const { dispatchEvent } = globalThis;
const EVENTS = ["load", "beforeunload", "unload"];
const NODE_EVENTS = ["beforeExit", "exit"];

class ProgramEnd {
  constructor() {
    this.listeners = listenersOf(globalThis);
    const copy = (all) => new Set(all ?? []);
    this.kept = new Map(EVENTS.map((name) => [name, copy(this.listeners[name])]));
    this.keptOfNode = new Map(NODE_EVENTS.map((name) => [name, copy(process.rawListeners(name))]));
  }

  /** Tells the program that its event loop is empty; returns whether it still is. */
  isReached(isWorkLeft) {
    const event = new Event("beforeunload", { cancelable: true });
    early.apply(dispatchEvent, globalThis, [event]);
    process.emit("beforeExit", Number(Deno.exitCode));
    return !event.defaultPrevented && !isWorkLeft();
  }

  /** Calls what the program has registered for its end. */
  tell(run) {
    const wasDead = run.isDead;
    run.isDead = false;
    if (run.exitCode !== null) Deno.exitCode = run.exitCode;
    try {
      early.apply(dispatchEvent, globalThis, [new Event("unload")]);
      process.emit("exit", Number(Deno.exitCode));
      if (run.exitCode !== null) run.exitCode = Number(Deno.exitCode) & 0xff;
    } finally {
      run.isDead = wasDead;
    }
  }

  /** Forgets what the program has registered: no later one shall be told the same. */
  forget() {
    for (const [name, kept] of this.kept) {
      globalThis[`on${name}`] = null;
      this.listeners[name] = (this.listeners[name] ?? []).filter((one) => kept.has(one));
    }
    for (const [name, kept] of this.keptOfNode) {
      for (const one of process.rawListeners(name)) if (!kept.has(one)) process.off(name, one);
    }
  }
}

module.exports = { ProgramEnd };
