"use strict";
/** The parser of cells, which are code of modules; loaded when it is first needed. */

/** Returns a function that returns acorn's `parse` for cells. */
function makeParserGetter({ resolve }) {
  let parse = null;
  return () => {
    parse ??= makeParse(require(resolve("acorn")).Parser);
    return parse;
  };
}

function makeParse(Parser) {
  class ModuleParser extends Parser {
    /** A cell may export what an earlier one has declared. */
    checkLocalExport() {}
  }
  const mode = { sourceType: "module", allowReturnOutsideFunction: false };
  return (code, options) => ModuleParser.parse(code, { ...options, ...mode });
}

module.exports = { makeParserGetter };
