"use strict";
/** Stops the program's code on request, as Ctrl-C does in a terminal, and keeps its state. */

const fs = require("node:fs");

const GRACE_MS = 6; // for the event loop to take the interrupt by itself

class Interrupts {
  /** `isRunning()` tells whether a run is under way. */
  constructor(main, isRunning) {
    this.main = main;
    this.isRunning = isRunning;
    this.runNumber = 0;
  }

  /** Notes that a run begins: interrupts of the one before concern it no more. */
  begin() {
    this.runNumber += 1;
  }

  async interrupt() {
    if (!this.isRunning()) return;
    const run = this.runNumber;
    interruptChildren();
    this.main.post({ kind: "interrupt" });
    const isDone = () => run !== this.runNumber || !this.isRunning();
    try {
      if ((await this.main.isResponsive(GRACE_MS)) || isDone()) return;
      await this.main.terminate();
    } catch (error) {
      this.main.logFault(error);
    }
    this.main.post({ kind: "wake" });
  }
}

/** Sends SIGINT to the children of this process: in a terminal they get it, too. */
function interruptChildren() {
  try {
    for (const thread of fs.readdirSync("/proc/self/task")) {
      const children = fs.readFileSync(`/proc/self/task/${thread}/children`, "latin1");
      for (const child of children.split(" ")) if (child) process.kill(Number(child), "SIGINT");
    }
  } catch {
    // the system does not tell, or a child has ended meanwhile
  }
}

module.exports = { Interrupts };
