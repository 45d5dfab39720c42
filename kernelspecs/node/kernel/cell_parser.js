"use strict";
/** The parser of cells, loaded when it is first needed. */

/** Returns a function that returns acorn's `parse` for cells. */
function makeParserGetter({ resolve }) {
  let parse = null;
  return () => {
    parse ??= makeParse(require(resolve("acorn")).Parser);
    return parse;
  };
}

/** A cell with `using` at its top level becomes a function; acorn knows that of modules alone. */
function makeParse(Parser) {
  class CellParser extends Parser {
    parseStatement(context, topLevel, exports) {
      return super.parseStatement(context, false, exports);
    }
  }
  return (code, options) => CellParser.parse(code, options);
}

module.exports = { makeParserGetter };
