"use strict";
/** Tells whether code is whole, only begun, or wrong: what a console needs to know at each line. */

const vm = require("node:vm");

const { PARSE_OPTIONS } = require("./cell_syntax.js");

// What a parser calls wrong where it began, and what more lines may still end.
const OPEN_PARTS = /^(?:Unterminated (?:template|comment)|Missing catch or finally)/;
const OPEN_STRING = /^Unterminated string/;
const CONTINUED_LINE = /\\\r?\n?$/;

class CodeCompleteness {
  /** `transform` makes JavaScript of another language, and tells of it what is unfinished. */
  constructor(getParse, transform) {
    this.getParse = getParse;
    this.transform = transform;
  }

  /** Answers an `is_complete_request`. */
  answer(code) {
    const status = this.status(code);
    if (status !== "incomplete") return { status };
    const indent = /^[^\S\n]*/.exec(code.slice(code.lastIndexOf("\n") + 1))[0];
    return { status, indent: /[{([]\s*$/.test(code) ? `${indent}  ` : indent };
  }

  /** Returns "complete", "incomplete" or "invalid". */
  status(code) {
    const problem = this.problem(code);
    if (this.transform === null || problem === "incomplete") return problem;
    const transformed = this.transform(code, "cell");
    if (!transformed.error) return this.problem(transformed.code);
    return this.transform.isUnfinished(code) ? "incomplete" : "invalid";
  }

  problem(code) {
    try {
      this.getParse()(`${code}\n`, PARSE_OPTIONS); // at whose end acorn mistakes a lone "?."
      return "complete";
    } catch (error) {
      if (isAccepted(code)) return "complete";
      return isUnfinished(code, error) ? "incomplete" : "invalid";
    }
  }
}

/** Returns whether V8 takes code that the parser does not know. */
function isAccepted(code) {
  try {
    return Boolean(new vm.Script(code));
  } catch {
    return false;
  }
}

/** Returns whether the parser failed for nothing but the end of the code. */
function isUnfinished(code, { message, pos }) {
  if (OPEN_STRING.test(message)) return CONTINUED_LINE.test(code);
  return pos >= code.length || OPEN_PARTS.test(message);
}

module.exports = { CodeCompleteness };
