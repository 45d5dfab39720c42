"use strict";
/** Runs the scripts of cells, and asks the inspector of this very thread. */

const vm = require("node:vm");

const { Evaluator: NodeEvaluator } = require("../../node/kernel/evaluator.js");

class Evaluator extends NodeEvaluator {
  /**
   * Declares the names of a cell in V8's REPL mode, in which they may be declared again. No code of
   * the program runs, which the inspector could not stop there. Throws a SyntaxError.
   */
  declare(script) {
    let problem = null;
    const options = { replMode: true, awaitPromise: false, silent: true };
    this.session.post("Runtime.evaluate", { expression: script, ...options }, (error, response) => {
      const details = response?.exceptionDetails;
      if (error) problem = new Error(String(error.message));
      else if (details) problem = this.toValue(details.exception);
    });
    if (problem !== null) throw problem;
  }

  /** Runs a script whose first line has the number `lineOffset` + 1. */
  call(script, name, lineOffset = 0) {
    vm.runInThisContext(script, { filename: name, lineOffset });
  }

  /** Keeps the session: unlike Node's kernel it waits for nothing in it. */
  reset() {
    if (this.session === null) super.reset();
  }
}

module.exports = { Evaluator };
