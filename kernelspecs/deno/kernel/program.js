"use strict";
/** The program of a session: runs cells one after the other, each to its end. */

const util = require("node:util");

const { toBundle } = require("../../node/kernel/display_data.js");
const early = require("../../node/kernel/early.js");
const { INTERRUPTED, Run } = require("../../node/kernel/run_state.js");
const { describeError } = require("../../node/kernel/user_errors.js");
const { restoreEnvironment, setEnvironment } = require("./environment.js");
const { hasMoreWork, soon } = require("./deno_internals.js");
const { ProgramEnd } = require("./program_end.js");
const { findMistake } = require("./type_transform.js");

const FIRST_LOOK_MS = 1;
const LONGEST_LOOK_MS = 16;
const IDLE_LOOKS = 3; // after which a cell that waits will wait for ever
const STOPPED = Symbol("stopped"); // thrown where code cannot be stopped from outside

class Program {
  /** The parts are those that `kernel.js` makes. */
  constructor(parts) {
    const { cells, context, errors, evaluator, link, modules, resources, servers, timers } = parts;
    Object.assign(this, { cells, context, errors, evaluator, link, modules });
    Object.assign(this, { resources, servers, timers });
    this.active = null;
    this.end = new ProgramEnd();
    this.imported = []; // what the `import` statements of the cell have imported
  }

  isActive(run) {
    return run === this.active;
  }

  /** Handles an error in the kernel's own code: the run ends, and its user is told. */
  onFault(error) {
    this.link.logFault(error);
    const run = this.active;
    if (run === null || run.isOver) return;
    run.fault = `${error?.name}: ${error?.message}`;
    this.link.write(2, `The kernel failed in a step of its own: ${run.fault}.\n`);
    run.exitCode = 1;
    if (run.isEnding) this.finish(run);
    else this.die(run, 1);
  }

  /** Calls a step of the kernel; returns a function that can be called back. */
  step(action) {
    return () => {
      try {
        action();
      } catch (error) {
        this.onFault(error);
      }
    };
  }

  // ---------------------------------------------------------------- the beginning

  /** Runs a cell; the reply follows when it has ended. */
  start(request) {
    const run = new Run(request);
    this.active = run;
    this.context.begin(run);
    this.link.postInOrder({ kind: "begin" });
    this.resources.begin(run);
    run.previousEnvironment = setEnvironment(run.era?.env ?? {});
    Deno.exitCode = 0;
    this.modules.forgetChanged();
    soon(this.step(() => this.enter(run)));
  }

  enter(run) {
    if (run.isEnding) return;
    this.context.enter(run, () => this.evaluate(run));
  }

  evaluate(run) {
    const { plan, error, text } = this.cells.prepare(run);
    if (plan === undefined) this.fail(run, error, { text });
    else if (!plan.edits) this.judge(run, plan);
    else if (plan.imports.length) this.importAll(run, plan);
    else this.runPlan(run, plan);
  }

  /** Asks Deno what is wrong with code that the kernel's own parser does not take; else runs it. */
  async judge(run, plan) {
    const mistake = findMistake(run.code, run.cellName);
    if (mistake !== null) {
      this.fail(run, mistake.error, { text: mistake.text });
      return;
    }
    const problem = await this.modules.findProblem(run.script);
    if (problem === null) {
      if (!run.isDead) this.context.enter(run, () => this.runPlan(run, plan));
      return;
    }
    const { line, column } = this.errors.sources.userPosition(run, problem.line, problem.column);
    const text = this.errors.syntaxError(problem.error, run, { line, column: column - 1 });
    this.fail(run, problem.error, { text });
  }

  /** Imports modules in the order of their statements, as V8 evaluates them; then runs the cell. */
  async importAll(run, plan) {
    const imported = [];
    for (const one of plan.imports) {
      try {
        imported.push(await this.modules.importNames(one, run.code));
      } catch (error) {
        this.fail(run, error, { text: this.errors.importProblem(error, run, one) });
        return;
      }
    }
    this.imported = imported;
    if (!run.isDead) this.context.enter(run, () => this.runPlan(run, plan));
  }

  runPlan(run, plan) {
    try {
      if (plan.declarations) this.evaluator.declare(plan.declarations);
      if (plan.prelude) this.evaluator.call(plan.prelude, run.cellName, -1);
      this.cells.commit(plan);
      this.evaluator.call(plan.body, run.cellName);
    } catch (error) {
      const place = this.cells.planner.problemPlace(run.script);
      this.fail(run, error, { text: this.errors.syntaxError(error, run, place) });
    }
  }

  /** Runs the function that was made of a cell. */
  runAsync(body) {
    const run = this.active;
    early.then(
      body(),
      (result) => this.succeed(run, result?.[0]),
      (error) => this.fail(run, error, { isRejection: true }),
    );
    this.lookLater(run);
  }

  /** Notes where a cell waits; returns what it waits for. */
  at(line, column, value) {
    const run = this.active;
    if (run !== null) {
      const place = this.errors.sources.userPosition(run, line, column);
      run.awaitPlace = { file: run.cellName, ...place };
    }
    return value;
  }

  /** Returns the frames of the code that the run waits in, while none of it runs. */
  waitingFrames() {
    const run = this.active;
    if (run === null || run.awaitPlace === null || run.isEvaluated) return [];
    const { file, line } = run.awaitPlace;
    const source = this.errors.sources.line(file, line).trim();
    return [{ file, line, function: "<anonymous>", source }];
  }

  // ---------------------------------------------------------------- the end

  /** Notes that a cell was run to its end; its callbacks may go on. */
  succeed(run, value) {
    if (this.active !== run || run.isEnding) return;
    run.isEvaluated = true;
    const isShown = value !== undefined && !run.isSilent;
    if (isShown && util.types.isPromise(value)) run.promise = value;
    else if (isShown) this.publishResult(run, toBundle(value));
    this.lookLater(run);
  }

  publishResult(run, data) {
    this.publish("execute_result", { execution_count: run.number, data, metadata: {} });
  }

  /** Publishes a message in order with the output; of late code it is dropped. */
  publish(type, content) {
    if (this.active === null || this.active.isDead) return;
    this.link.postInOrder({ kind: "publish", type, content });
  }

  /** Looks soon, and then again and again, whether the event loop has anything left to do. */
  lookLater(run) {
    run.lookNumber = (run.lookNumber ?? 0) + 1;
    const { lookNumber } = run;
    let wait = FIRST_LOOK_MS;
    let idleLooks = 0;
    const look = () => {
      if (this.active !== run || run.isEnding || run.lookNumber !== lookNumber) return;
      idleLooks = this.isWorkLeft() ? 0 : idleLooks + 1;
      // What was done by another thread may be on its way, and be no work any more.
      if (idleLooks > (run.isEvaluated ? 0 : IDLE_LOOKS)) this.onLoopEnd(run);
      if (run.isEnding) return;
      const timer = early.setTimeout(this.step(look), wait);
      Deno.unrefTimer(timer);
      wait = Math.min(wait * 2, LONGEST_LOOK_MS);
    };
    soon(this.step(look));
  }

  isWorkLeft() {
    if (this.link.isStopping) return true;
    this.link.unref();
    try {
      return hasMoreWork();
    } finally {
      this.link.ref();
    }
  }

  /** Is called when the event loop has nothing left to do. */
  onLoopEnd(run) {
    this.link.receiveWaiting(); // an interrupt that has stopped the last callback, for one
    if (this.active !== run || run.isEnding) return;
    if (!run.isEvaluated && !this.servers.isAnyListening()) {
      const text = this.errors.unsettled(run.awaitPlace);
      this.fail(run, new Error("Top-level await promise never resolved"), { text });
      return;
    }
    if (run.era?.ends && !this.context.enter(run, () => this.end.isReached(() => this.isWorkLeft()))) return;
    run.isEnding = true;
    this.finish(run);
  }

  /** Ends a run with an uncaught error. */
  fail(run, error, { text, isRejection } = {}) {
    if (this.active !== run || run.isEnding) return;
    const told = text ?? this.errors.uncaught(error, { isRejection });
    run.exception = describeError(error, told);
    if (run.era) this.link.write(2, told);
    this.die(run, 1);
  }

  /** Handles an error that nothing caught. */
  onUncaught(error, isRejection) {
    if (error === STOPPED) return;
    // Deno reports what a timer throws in the context of another one.
    const run = isRejection ? this.context.current() : this.context.takeFailed();
    if (run?.isDead) return;
    if (run !== null && run === this.active) {
      this.fail(run, error, { isRejection });
    } else if (run === null) {
      this.link.logFault(error);
    } else {
      const text = this.errors.uncaught(error, { isRejection });
      this.link.post({ kind: "late", name: "stderr", text, parent: run.header });
    }
  }

  /** Is the `Deno.exit` of the program. Never returns. */
  exit(code = Deno.exitCode) {
    const run = this.context.current();
    const isActive = run !== null && run === this.active;
    if (isActive && run.isOver) {
      run.exitCode = Deno.exitCode = Number(code) & 0xff;
      run.hasExitedInItsEnd = true;
    } else if (isActive && !run.isEnding) {
      run.exitCode ??= Number(code) & 0xff;
      run.isDead = true;
      if (!this.link.canStop) soon(this.step(() => this.onStopped()));
    }
    if (this.link.canStop) this.link.waitToBeStopped();
    throw STOPPED;
  }

  /** Is called when code was stopped, by an exit or by an interrupt. */
  onStopped() {
    const run = this.active;
    if (run !== null) this.die(run, INTERRUPTED);
  }

  /** Interrupts the run: the program's own handlers get it once, if there are any. */
  onInterrupt() {
    const run = this.active;
    if (run === null) return;
    run.interruptCount += 1;
    const isHandled = run.interruptCount === 1 && !run.isDead;
    if (!isHandled || !this.context.enter(run, () => this.resources.signal("SIGINT"))) {
      this.die(run, INTERRUPTED);
    }
  }

  /**
   * Ends a run whose callbacks must not be called any more. Called again, it goes on with an end that
   * was stopped: what stops the program's code may meet the kernel's own in its place.
   */
  die(run, code) {
    run.isEnding = true;
    run.isDead = true;
    if (run.exitCode === null || (run.isOver && !run.hasExitedInItsEnd)) {
      run.exitCode = code;
      if (code === INTERRUPTED) run.exception = interruption();
    }
    this.timers.clear(run);
    this.resources.end(run);
    // What is queued already is called, and is silent; then the run is over.
    soon(() => soon(this.step(() => this.finish(run))));
  }

  finish(run) {
    if (this.active !== run) return;
    run.isOver = true;
    const steps = [
      () => run.era?.ends && this.context.enter(run, () => this.end.tell(run)),
      () => run.era?.ends && this.end.forget(),
      () => this.publishPromise(run),
      () => this.evaluateAll(run),
      () => restoreEnvironment(run.previousEnvironment),
    ];
    run.takeLastSteps(steps, (error) => {
      if (error === STOPPED) return;
      this.link.write(2, this.errors.uncaught(error));
      run.exitCode = 1;
    });
    if (this.link.isStopping) return; // to be called again: a function that was stopped may return
    const reply = run.reply(exitCode());
    Deno.exitCode = 0;
    this.link.postInOrder({ kind: "end", reply });
    this.active = null;
  }

  /** Publishes the promise that a cell ended in, unless nothing came of it. */
  publishPromise(run) {
    if (!run.promise || run.isDead) return;
    const data = toBundle(run.promise);
    if (data["text/plain"] !== "Promise { undefined }") this.publishResult(run, data);
  }

  evaluateAll(run) {
    if (run.exitCode ?? exitCode()) return;
    for (const [name, expression] of Object.entries(run.expressions)) {
      const text = String(expression);
      run.values[name] = this.evaluator.evaluateExpression(text, toBundle, describeError);
    }
  }
}

function exitCode() {
  return Number(Deno.exitCode) & 0xff;
}

function interruption() {
  return { name: "Interrupt", value: "The run was interrupted.", traceback: [] };
}

module.exports = { Program };
