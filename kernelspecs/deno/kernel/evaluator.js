"use strict";
/** Runs the scripts of cells, and finds the values of expressions. */

const { Session } = require("node:inspector");
const vm = require("node:vm");

const { holdNewPromises } = require("./deno_internals.js");

const { getOwnPropertyDescriptor, getPrototypeOf } = Object;

class Evaluator {
  /** `getLexicalNames()` returns the names that `let`, `const` and `class` of cells declared. */
  constructor(getLexicalNames) {
    this.lexicalNames = getLexicalNames;
    this.promises = new Set(); // of scripts whose callbacks are still to be called
    this.session = new Session();
    this.session.connect();
  }

  /**
   * Declares the names of a cell in V8's REPL mode, in which they may be declared again. No code of
   * the program runs: the inspector could not stop it within its own call.
   */
  declare(script) {
    const options = { replMode: true, awaitPromise: false, silent: true };
    // V8's inspector crashes when garbage is collected before its callbacks: the promise is held.
    const { held, stop } = holdNewPromises();
    this.promises.add(held);
    this.session.post("Runtime.evaluate", { expression: script, ...options }, () => {
      this.promises.delete(held);
    });
    stop();
  }

  /** Runs a script whose first line has the number `lineOffset` + 1. */
  call(script, name, lineOffset = 0) {
    vm.runInThisContext(script, { filename: name, lineOffset });
  }

  /** Returns what Jupyter calls the value of a user expression: a bundle, or an error. */
  evaluateExpression(expression, toBundle, describeError) {
    try {
      const value = vm.runInThisContext(expression);
      return { status: "ok", data: toBundle(value), metadata: {} };
    } catch (error) {
      const { name, value } = describeError(error, "");
      return { status: "error", ename: name, evalue: value, traceback: [] };
    }
  }

  /** Returns the value of `a.b.c`, or its type; undefined where code would have to run for that. */
  peek(expression) {
    const typeOf = /^typeof \((.*)\)$/s.exec(expression);
    if (typeOf !== null) return typeof this.peek(typeOf[1]);
    const [first, ...rest] = expression.split(".").map((name) => name.trim().replace(/\?$/, ""));
    if (!/^[\p{L}$_][\p{L}\p{N}$_]*$/u.test(first)) return undefined;
    let value;
    try {
      value = vm.runInThisContext(first);
    } catch {
      return undefined; // there is no such name
    }
    for (const name of rest) value = readProperty(value, name);
    return value;
  }
}

/** Returns a property that is no getter's. */
function readProperty(value, name) {
  if (value === undefined || value === null) return undefined;
  for (let object = Object(value); object !== null; object = getPrototypeOf(object)) {
    const found = getOwnPropertyDescriptor(object, name);
    if (found !== undefined) return found.value;
  }
  return undefined;
}

module.exports = { Evaluator };
