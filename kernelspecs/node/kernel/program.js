"use strict";
/** The program of a session: runs cells one after the other, each to its end. */

const util = require("node:util");

const { toBundle } = require("./display_data.js");
const early = require("./early.js");
const { restoreIntrinsics, withIntrinsics } = require("./restored_intrinsics.js");
const { IMPORT_PLACE } = require("./program_modules.js");
const { INTERRUPTED, Run } = require("./run_state.js");
const { describeError, isOfNode } = require("./user_errors.js");

const UNSETTLED_CODE = 13; // Node's exit code when a top-level await is never settled
const HANDLER_FAILED_CODE = 7; // Node's exit code when a handler of uncaught errors throws
const EXITED = Symbol("exited"); // thrown to leave a handler of the program's end
const MAX_DEAD_FAILURES = 100; // of the callbacks of a run that has ended
const CLEANUP = Symbol("cleanup"); // thrown to make Node forget the callbacks that were stopped

class Program {
  /** The parts are those that `main.js` makes. */
  constructor(parts) {
    const { cells, context, errors, evaluator, link, modules, servers, sources, timers } = parts;
    Object.assign(this, { cells, context, errors, evaluator, link, modules });
    Object.assign(this, { servers, sources, timers });
    this.active = null;
    this.fatalException = process._fatalException;
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

  // ---------------------------------------------------------------- the beginning

  /** Runs a cell; the reply follows when it has ended. */
  start(request) {
    const run = new Run(request);
    this.active = run;
    this.context.begin(run);
    this.link.postInOrder({ kind: "begin" });
    run.handles = new Set(early.copyList(early.activeHandles()));
    run.previousEnvironment = setEnvironment(run.era?.env ?? {});
    process.exitCode = undefined;
    process.argv = early.makeList(process.execPath, this.modules.file);
    this.modules.forgetChanged();
    // A main program runs before the event loop turns to timers; and not in the immediate itself,
    // which must not be stopped.
    early.setImmediate(() => early.nextTick(() => this.enter(run)));
  }

  enter(run) {
    if (run.isEnding) return;
    this.link.unref();
    this.context.enter(run, () => this.evaluate(run));
  }

  evaluate(run) {
    const { plan, error, text } = this.cells.prepare(run);
    if (plan === undefined) {
      this.fail(run, error, { text });
    } else if (plan.imports.length) {
      this.importAll(run, plan);
    } else {
      this.runScripts(run, plan);
    }
  }

  /** Imports modules in the order of their statements, as V8 evaluates them; then runs the cell. */
  async importAll(run, plan) {
    const imported = [];
    for (const one of plan.imports) {
      try {
        imported.push(await this.modules.importNames(one));
      } catch (error) {
        const place = error?.[IMPORT_PLACE];
        this.fail(run, error, { place: place && { ...place, file: run.cellName } });
        return;
      }
    }
    this.imported = imported;
    if (!run.isDead) this.context.enter(run, () => this.runScripts(run, plan));
  }

  runScripts(run, plan) {
    // From there on until the error is told, callbacks that wait already must stay silent.
    const onThrow = () => {
      run.isDead = true;
    };
    const onError = ({ error, isSyntax }) => {
      if (this.active !== run || run.isEnding) return;
      run.isDead = false;
      if (!isSyntax) this.cells.commit(plan);
      if (isSyntax) this.fail(run, error, { text: this.errors.syntaxError(error, run) });
      else this.raise(run, error, false);
    };
    if (plan.prelude) {
      this.evaluator.run(plan.prelude, run.cellName, onThrow, (outcome) => {
        if ("error" in outcome) onError(outcome);
      });
    }
    if (run.isDead) return;
    this.evaluator.run(plan.body, run.cellName, onThrow, (outcome) => {
      if ("error" in outcome) onError(outcome);
      else if (!plan.isAsync) this.succeed(run, outcome.value);
    });
    if (!run.isDead) this.cells.commit(plan);
  }

  /** Runs a cell that is an async function. */
  runAsync(body) {
    const run = this.active;
    early.then(
      body(),
      (result) => this.succeed(run, result?.[0]),
      (error) => {
        if (this.active === run && !run.isEnding) this.raise(run, error, true);
      },
    );
  }

  /** Notes where a cell waits; returns what it waits for. */
  at(line, column, value) {
    const run = this.active;
    if (run !== null) {
      run.awaitPlace = { file: run.cellName, ...this.sources.userPosition(run, line, column) };
    }
    return value;
  }

  /** Returns the frames of the code that the run waits in, while none of it runs. */
  waitingFrames() {
    const run = this.active;
    if (run === null || run.awaitPlace === null || run.isEvaluated) return [];
    const { file, line } = run.awaitPlace;
    const source = this.sources.line(file, line).trim();
    return [{ file, line, function: "<anonymous>", source }];
  }

  // ---------------------------------------------------------------- the end

  /** Notes that a cell was run to its end; its callbacks may go on. */
  succeed(run, value) {
    if (this.active !== run || run.isEnding) return;
    run.isEvaluated = true;
    if (value === undefined || run.isSilent) return;
    if (util.types.isPromise(value)) run.promise = value;
    else this.publishResult(run, toBundle(value));
  }

  publishResult(run, data) {
    this.publish("execute_result", { execution_count: run.number, data, metadata: {} });
  }

  /** Publishes a message in order with the output; of late code it is dropped. */
  publish(type, content) {
    if (this.active === null || this.active.isDead) return;
    this.link.postInOrder({ kind: "publish", type, content });
  }

  /** Ends a run with an uncaught error. */
  fail(run, error, { text, place, isRejection, code = 1 } = {}) {
    if (this.active !== run || run.isEnding) return;
    const told = text ?? this.errors.uncaught(error, { place, isRejection });
    run.exception = describeError(error, told);
    if (run.era) this.link.write(2, told);
    this.die(run, code);
  }

  /** Gives an error of a cell to the program's own handlers of errors; without any, it fails. */
  raise(run, error, isRejection) {
    try {
      this.fatalException(error, isRejection);
      if (!run.isDead) run.isEvaluated = true;
    } catch (problem) {
      this.onHandlerFailure(problem);
    }
  }

  /** Handles an error that nothing caught; returns true when the program does not handle it. */
  onUncaught(error, origin) {
    if (error === CLEANUP) return;
    const run = this.context.current();
    const isRejection = origin === "unhandledRejection";
    if (run?.isDead) {
      // Node fails by itself, over and over, because the program has broken what it needs.
      if (isOfNode(error) || (run.failureCount += 1) > MAX_DEAD_FAILURES) restoreIntrinsics();
      return;
    }
    if (run !== null && run === this.active) {
      this.fail(run, error, { isRejection });
    } else if (run === null) {
      this.link.logFault(error);
    } else {
      const text = this.errors.uncaught(error, { isRejection });
      this.link.post({ kind: "late", name: "stderr", text, parent: run.header });
    }
  }

  /** Handles an error in the program's own handler of errors, which ends the program. */
  onHandlerFailure(error) {
    if (error === EXITED) throw error;
    const run = this.context.current();
    if (run === null || run !== this.active) this.onUncaught(error, "uncaughtException");
    else this.fail(run, error, { code: HANDLER_FAILED_CODE });
  }

  /** Is the `process.exit` of the program. */
  exit(...args) {
    if (args.length) process.exitCode = args[0];
    const run = this.context.current();
    if (run === this.active && run?.isOver) throw EXITED; // in a handler of that end
    if (run === this.active && run !== null && !run.isEnding) {
      run.exitCode ??= exitCode();
      run.isDead = true;
      run.wasStopped = true;
      this.link.ref();
      this.link.post({ kind: "wake" });
    }
    this.evaluator.terminate();
  }

  /** Is called when code was stopped, by an exit or by an interrupt. */
  onStopped() {
    const run = this.active;
    if (run === null) return;
    run.wasStopped = true;
    this.die(run, INTERRUPTED);
  }

  /** Interrupts the run: the program's own handlers get it once, if there are any. */
  onInterrupt() {
    const run = this.active;
    if (run === null) return;
    run.interruptCount += 1;
    if (run.interruptCount === 1 && process.listenerCount("SIGINT") && !run.isDead) {
      this.context.enter(run, () => process.emit("SIGINT", "SIGINT", 2));
    } else {
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
    if (run.exitCode === null || run.isOver) {
      run.exitCode = code;
      if (code === INTERRUPTED) run.exception = interruption();
    }
    this.link.ref();
    withIntrinsics(() => this.leave(run));
  }

  /** Ends what a run has begun, and lets it finish. */
  leave(run) {
    this.timers.clear(run);
    closeHandles(run);
    this.evaluator.reset();
    // What is queued already is called, and is silent; then the run is over.
    early.setImmediate(() => {
      if (this.active !== run) return;
      early.setImmediate(() => this.finish(run));
      if (run.wasStopped) throw CLEANUP;
    });
    early.setTimeout(() => {}, 0).unref(); // sets Node's clock again if a timer was stopped
  }

  /** Is called when the event loop has nothing left to do. */
  onLoopEnd(emitToProgram) {
    const run = this.active;
    this.link.receiveWaiting(); // an interrupt that has stopped the last callback, for one
    if (run === null || run.isEnding) return;
    if (!run.isEvaluated && !this.servers.isAnyListening()) {
      run.exitCode = UNSETTLED_CODE;
      if (run.era) this.link.write(2, this.errors.unsettled(run.awaitPlace));
      this.die(run, UNSETTLED_CODE);
      return;
    }
    if (run.era?.ends && !run.toldEnd) {
      const before = early.activeResources().length;
      this.context.enter(run, () => emitToProgram("beforeExit", exitCode()));
      // Callbacks of promises come first. The immediate itself keeps the process alive until then.
      const hasMore = () => early.activeResources().length > before;
      const hasBegun = hasMore(); // what ends soon may be gone by then
      early.setImmediate(() => {
        run.toldEnd = !hasBegun && !hasMore();
      });
      return;
    }
    run.isEnding = true;
    this.link.ref();
    this.finish(run);
  }

  finish(run) {
    if (this.active !== run) return;
    run.isOver = true;
    const steps = [
      () => this.endProgram(run),
      () => this.publishPromise(run),
      () => this.evaluateAll(run),
      () => restoreEnvironment(run.previousEnvironment),
      () => this.modules.rememberLoaded(),
    ];
    run.takeLastSteps(steps, (error) => {
      if (error !== EXITED) this.link.write(2, this.errors.uncaught(error));
      run.exitCode = error === EXITED ? exitCode() : 1;
    });
    const reply = run.reply(exitCode());
    process.exitCode = undefined;
    this.link.postInOrder({ kind: "end", reply });
    this.active = null;
  }

  /** Calls what the program registered for its end. */
  endProgram(run) {
    if (!run.era?.ends) return;
    const wasDead = run.isDead;
    run.isDead = false;
    const code = run.exitCode ?? exitCode();
    try {
      process.exitCode = code;
      this.context.enter(run, () => process.emit("exit", code));
      if (run.exitCode !== null) run.exitCode = exitCode();
    } finally {
      run.isDead = wasDead;
    }
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
  return Number(process.exitCode ?? 0) & 0xff;
}

function interruption() {
  return { name: "Interrupt", value: "The run was interrupted.", traceback: [] };
}

/** Sets variables; returns their previous values. */
function setEnvironment(env) {
  const previous = Object.keys(env).map((name) => [name, process.env[name]]);
  for (const [name, value] of Object.entries(env)) process.env[name] = value;
  return previous;
}

function restoreEnvironment(previous) {
  for (const [name, value] of previous) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
}

/** Closes the sockets, servers and pipes that a run has opened, as the end of a process does. */
function closeHandles(run) {
  for (const handle of early.copyList(early.activeHandles())) {
    if (run.handles.has(handle)) continue;
    try {
      if (typeof handle.destroy === "function") handle.destroy();
      else if (typeof handle.close === "function") handle.close();
      else handle.unref?.();
    } catch {
      // it is closed already, or an object of the program's own
    }
  }
}

module.exports = { CLEANUP, Program };
