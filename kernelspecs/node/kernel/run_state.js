"use strict";
/** One run: the code of a request, and how it ends. */

const INTERRUPTED = 130;

class Run {
  constructor({ code, number, cellName, isSilent, era, expressions, canAsk, header }) {
    this.code = code;
    this.number = number;
    this.cellName = cellName;
    this.isSilent = isSilent;
    this.era = era;
    this.expressions = expressions;
    this.values = {}; // of the expressions
    this.canAsk = canAsk;
    this.header = header;
    this.timers = new Set(); // that have not fired
    this.handles = new Set(); // that were there before it
    this.isEvaluated = false; // its scripts have been run to their ends
    this.isDead = false; // it has exited or failed: whatever it left behind is silent
    this.isOver = false; // its last steps have begun
    this.lastSteps = 0; // that have begun
    this.hasExitedInItsEnd = false; // by a listener of its end
    this.toldEnd = false; // its listeners of `beforeExit` were called and have begun nothing new
    this.wasStopped = false; // in the middle of its code
    this.interruptCount = 0;
    this.failureCount = 0; // of callbacks that were called when it was dead
    this.exitCode = null;
    this.exception = null;
    this.fault = null; // names what failed in the kernel itself
    this.awaitPlace = null; // of the top-level await that was reached last
  }

  /**
   * Takes those of its last steps that have not begun. One that throws, or is stopped, keeps none of
   * the others from being taken.
   */
  takeLastSteps(steps, onError) {
    while (this.lastSteps < steps.length) {
      try {
        steps[this.lastSteps++]();
      } catch (error) {
        onError(error);
      }
    }
  }

  /** Returns the content of the reply; the exit code is of a program that ended by itself. */
  reply(exitCode) {
    const code = this.exitCode ?? exitCode;
    const era = { exit_code: code, exception: this.exception, fault: this.fault };
    const reply = { status: "ok", payload: [], user_expressions: this.values, era };
    if (code === 0) return reply;
    const told = this.exception ?? { name: "Exit", value: String(code), traceback: [] };
    const { name, value, traceback } = told;
    return { ...reply, status: "error", ename: name, evalue: value, traceback };
  }
}

module.exports = { INTERRUPTED, Run };
