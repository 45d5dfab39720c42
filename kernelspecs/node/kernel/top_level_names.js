"use strict";
/** The names that the cells of a session have declared at their top level. */

/** The top-level names of a session: how V8 holds each, and whether it is a constant. */
class TopLevelNames {
  constructor() {
    this.names = new Map(); // name → { isLexical, isConstant }
    this.constantCount = 0;
  }

  has(name) {
    return this.names.has(name);
  }

  isLexical(name) {
    return this.names.get(name)?.isLexical === true;
  }

  /** Returns whether a name is a property of the global object that a cell declared. */
  isProperty(name) {
    return this.names.get(name)?.isLexical === false;
  }

  isConstant(name) {
    return this.names.get(name)?.isConstant === true;
  }

  lexicalNames() {
    return [...this.names.keys()].filter((name) => this.isLexical(name));
  }

  /** Takes over what a cell declares, when V8 has taken the cell. */
  commit(declared) {
    for (const [name, description] of declared) {
      this.constantCount += Number(description.isConstant) - Number(this.isConstant(name));
      this.names.set(name, description);
    }
  }
}

module.exports = { TopLevelNames };
