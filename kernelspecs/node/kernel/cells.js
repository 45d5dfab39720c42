"use strict";
/** Prepares the code of cells, and remembers it for the texts of errors. */

const { CellPlanner } = require("./cell_syntax.js");

class Cells {
  /**
   * `transform(code, name)` makes JavaScript of another language; null for JavaScript. With
   * `isModule` cells are code of a module.
   */
  constructor(sources, getParse, transform, isModule = false) {
    this.sources = sources;
    this.planner = new CellPlanner(getParse, isModule);
    this.transform = transform;
  }

  /** Returns `{ plan }`, or `{ error, text }` for code that is none of the language. */
  prepare(run) {
    let { code } = run;
    let map = null;
    if (this.transform !== null) {
      const transformed = this.transform(code, run.cellName);
      if (transformed.error) return transformed;
      ({ code, map } = transformed);
    }
    const plan = this.planner.plan(code);
    run.script = code;
    this.sources.add(run.cellName, { code: run.code, plan, map });
    return { plan };
  }

  /** Notes what a cell that V8 has taken declares. */
  commit(plan) {
    this.planner.names.commit(plan.declared);
  }
}

module.exports = { Cells };
