"use strict";
/** What a run has opened: it is closed when the run is ended, as the end of a process does. */

const { closeResource, resources } = require("./deno_internals.js");

const SHARED = /port/i; // the kernel's own link to its worker is among them

class RunResources {
  constructor(context) {
    this.context = context;
    this.listeners = new Set(); // triples of a run, a signal and a function, of `Deno`
  }

  /** Notes which listeners of signals a program has. */
  install() {
    const { context, listeners } = this;
    const { addSignalListener, removeSignalListener } = Deno;
    Deno.addSignalListener = function (signal, listener) {
      addSignalListener(signal, listener);
      listeners.add([context.current(), signal, listener]);
    };
    Deno.removeSignalListener = function (signal, listener) {
      removeSignalListener(signal, listener);
      for (const one of listeners) {
        if (one[1] === signal && one[2] === listener) listeners.delete(one);
      }
    };
  }

  begin(run) {
    run.handles = new Set(Object.keys(resources()));
  }

  /** Calls the program's listeners of a signal; returns whether there are any. */
  signal(name) {
    const own = [...this.listeners].filter((one) => one[1] === name);
    for (const [, , listener] of own) listener();
    return process.emit(name, name, 2) || own.length > 0;
  }

  /** Closes what a run has opened. */
  end(run) {
    for (const one of this.listeners) if (one[0] === run) Deno.removeSignalListener(one[1], one[2]);
    for (const [id, name] of Object.entries(resources())) {
      if (!run.handles.has(id) && !SHARED.test(name)) closeResource(Number(id));
    }
  }
}

module.exports = { RunResources };
