"use strict";
/** Stops the program's code on request, as Ctrl-C does in a terminal, and keeps its state. */

const fs = require("node:fs");

const ATTEMPTS = 10;
const ATTEMPT_MS = 200;
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

  /** Returns a function that tells whether the run under way is over. */
  runWatcher() {
    const run = this.runNumber;
    return () => run !== this.runNumber || !this.isRunning();
  }

  async interrupt() {
    if (!this.isRunning()) return;
    this.main.post({ kind: "interrupt" });
    const isDone = this.runWatcher();
    const isResponsive = await this.main.isResponsive(GRACE_MS);
    interruptChildren(); // after the program, whose run would end with them
    if (isResponsive || isDone()) return;
    for (let attempt = 0; attempt < ATTEMPTS && !isDone(); attempt++) {
      try {
        await this.main.terminate(ATTEMPT_MS);
        break;
      } catch {
        interruptChildren(); // for which the main thread waits, perhaps, and can do nothing else
      }
    }
    if (!isDone()) this.main.post({ kind: "wake" });
  }
}

/** Sends SIGINT to the processes below this one: in a terminal they get it, too. */
function interruptChildren() {
  const parents = new Map();
  try {
    for (const name of fs.readdirSync("/proc")) {
      if (/^\d+$/.test(name)) parents.set(Number(name), parentOf(name));
    }
  } catch {
    return; // there is no /proc
  }
  for (const process_ of parents.keys()) {
    let above = parents.get(process_);
    while (above && above !== process.pid) above = parents.get(above);
    if (above) signalProcess(process_);
  }
}

/** Returns the parent of a process; 0 when it has ended. */
function parentOf(name) {
  try {
    // The name of the program is in parentheses, and may hold anything.
    return Number(/^.*\) \S (\d+)/s.exec(fs.readFileSync(`/proc/${name}/stat`, "latin1"))[1]);
  } catch {
    return 0;
  }
}

function signalProcess(number) {
  try {
    process.kill(number, "SIGINT");
  } catch {
    // it has ended meanwhile
  }
}

module.exports = { Interrupts };
