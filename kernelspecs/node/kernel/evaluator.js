"use strict";
/** Runs the scripts of cells in V8's REPL mode, by the inspector of this very thread. */

const { Session } = require("node:inspector");
const { promiseHooks } = require("node:v8");
const vm = require("node:vm");

const OBJECT_GROUP = "era";

class Evaluator {
  constructor() {
    this.session = null;
    this.promises = new Set(); // of scripts whose callbacks are still to be called
    this.control = new Session(); // stops code, and outlives the other session
    this.control.connect();
    this.taken = undefined; // by `take`
    this.hasReachedEnd = false;
    this.reset();
  }

  /**
   * Makes a new session. What an old one waits for would never come, and when that is collected as
   * garbage, the inspector would call into JavaScript and crash.
   */
  reset() {
    this.disconnect();
    this.session = new Session();
    this.session.connect();
  }

  disconnect() {
    this.session?.disconnect();
    this.session = null;
    this.promises.clear();
  }

  /** Stops the code that runs now; nothing can catch that. Never returns. */
  terminate() {
    this.disconnect();
    this.control.post("Runtime.terminateExecution");
    for (;;);
  }

  /**
   * Runs a script. Calls `onThrow()` at once when it threw, before any other code can run; then
   * `onDone({ value })` or `onDone({ error, isSyntax })`. Neither is called when it was stopped.
   */
  run(script, name, onThrow, onDone) {
    const { session } = this;
    this.hasReachedEnd = false;
    const hold = this.holdPromise();
    session.post(
      "Runtime.evaluate",
      {
        expression: `${script}\n//# sourceURL=${name}`,
        replMode: true,
        awaitPromise: false,
        objectGroup: OBJECT_GROUP,
      },
      (problem, response) => {
        this.promises.delete(hold.promise);
        if (problem) return;
        const { exceptionDetails: details, result } = response;
        const value = this.toValue(details?.exception ?? result);
        session.post("Runtime.releaseObjectGroup", { objectGroup: OBJECT_GROUP });
        if (details) onDone({ error: value, isSyntax: isCompileError(value, script) });
        else onDone({ value });
      },
    );
    hold.stopHook();
    if (!this.hasReachedEnd) onThrow();
  }

  /**
   * Holds the promise of the next script, which is the first that comes into being, until it is taken
   * out of `promises`. V8 itself does not: when it is collected before its callbacks are called, the
   * inspector crashes, as above. A cell may be two scripts, and both wait for the second one's end.
   */
  holdPromise() {
    const hold = { promise: null, stopHook: null };
    hold.stopHook = promiseHooks.onInit((promise) => {
      hold.promise = promise;
      this.promises.add(promise);
      hold.stopHook();
    });
    return hold;
  }

  /** Notes that the script that runs now was run to its end. */
  end() {
    this.hasReachedEnd = true;
    return {};
  }

  /** Returns the value that the inspector describes. */
  toValue(remote) {
    if (remote.unserializableValue !== undefined) return parseNumber(remote.unserializableValue);
    if (remote.objectId === undefined) return remote.type === "undefined" ? undefined : remote.value;
    this.taken = undefined;
    const functionDeclaration = "function () { __era.take(this); }";
    this.session.post("Runtime.callFunctionOn", { objectId: remote.objectId, functionDeclaration });
    const { taken } = this;
    this.taken = undefined;
    return remote.type === "symbol" ? taken.valueOf() : taken;
  }

  take(value) {
    this.taken = value;
  }

  /** Returns the names that `let`, `const` and `class` of cells declared. */
  lexicalNames() {
    let names = [];
    this.control.post("Runtime.globalLexicalScopeNames", {}, (problem, response) => {
      if (!problem) names = response.names;
    });
    return names;
  }

  /** Returns what Jupyter calls the value of a user expression: a bundle, or an error. */
  evaluateExpression(expression, toBundle, describeError) {
    let found;
    const options = { silent: true, objectGroup: OBJECT_GROUP };
    this.session.post("Runtime.evaluate", { expression, ...options }, (problem, response) => {
      if (problem) return;
      const { exceptionDetails: details, result } = response;
      const value = this.toValue(details?.exception ?? result);
      if (details) {
        const { name, value: text } = describeError(value, "");
        found = { status: "error", ename: name, evalue: text, traceback: [] };
      } else {
        found = { status: "ok", data: toBundle(value), metadata: {} };
      }
    });
    return found ?? { status: "error", ename: "Error", evalue: "", traceback: [] };
  }

  /** Returns the value of an expression that changes nothing; undefined where that fails. */
  peek(expression) {
    let value;
    const options = { throwOnSideEffect: true, silent: true, objectGroup: OBJECT_GROUP };
    this.session.post("Runtime.evaluate", { expression, ...options }, (problem, response) => {
      if (!problem && !response.exceptionDetails) value = this.toValue(response.result);
    });
    return value;
  }
}

/** Returns whether a script could not be compiled, and not that its code threw such an error. */
function isCompileError(error, script) {
  if (!(error instanceof SyntaxError)) return false;
  try {
    new vm.Script(script);
    // Names that cannot be declared again are no mistake for a script of its own.
    return / has already been declared$/.test(error.message) && !/\n {4}at /.test(error.stack);
  } catch {
    return true;
  }
}

function parseNumber(text) {
  return text.endsWith("n") ? BigInt(text.slice(0, -1)) : Number(text);
}

module.exports = { Evaluator};
