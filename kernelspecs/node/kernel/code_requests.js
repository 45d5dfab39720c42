"use strict";
/** Answers requests about code: what may stand at the cursor, what a name is, whether code is whole. */

const util = require("node:util");

const { CodeCompleteness } = require("./code_completeness.js");

const KEYWORDS = (
  "async await break case catch class const continue debugger default delete do else export extends " +
  "false finally for function if import in instanceof let new null return static super switch this " +
  "throw true try typeof undefined var void while yield"
).split(" ");
const NAME = /(?:[\w$]+\s*\??\.\s*)*[\w$]*$/;
const MAX_MATCHES = 1000;

class CodeRequests {
  constructor(evaluator, getParse, transform) {
    this.evaluator = evaluator;
    this.completeness = new CodeCompleteness(getParse, transform);
  }

  answer(type, content) {
    try {
      if (type === "complete_request") return this.complete(content);
      if (type === "inspect_request") return this.inspect(content);
      return this.completeness.answer(String(content.code));
    } catch (error) {
      const told = { ename: "Error", evalue: String(error?.message), traceback: [] };
      return { status: "error", ...told };
    }
  }

  complete({ code, cursor_pos: cursor }) {
    const end = toIndex(code, cursor);
    const text = NAME.exec(code.slice(0, end))[0];
    const dot = text.lastIndexOf(".");
    const prefix = text.slice(dot + 1).trimStart();
    const names = dot < 0 ? this.allNames() : this.memberNames(text.slice(0, dot));
    const matches = [...new Set(names)].filter((name) => name.startsWith(prefix)).sort();
    return {
      status: "ok",
      matches: matches.slice(0, MAX_MATCHES),
      cursor_start: toPosition(code, end - prefix.length),
      cursor_end: toPosition(code, end),
      metadata: {},
    };
  }

  allNames() {
    const found = [...KEYWORDS, ...this.evaluator.lexicalNames()];
    for (let object = globalThis; object !== null; object = Object.getPrototypeOf(object)) {
      found.push(...Object.getOwnPropertyNames(object));
    }
    return found.filter((name) => name !== "__era");
  }

  memberNames(expression) {
    let value = this.evaluator.peek(expression.replace(/\?$/, ""));
    if (value === undefined || value === null) return [];
    const found = [];
    for (value = Object(value); value !== null; value = Object.getPrototypeOf(value)) {
      const names = Object.getOwnPropertyNames(value);
      found.push(...names.filter((name) => /^[\p{L}$_][\p{L}\p{N}$_]*$/u.test(name)));
    }
    return found;
  }

  inspect({ code, cursor_pos: cursor, detail_level: level }) {
    const end = toIndex(code, cursor);
    const rest = /^[\w$]*/.exec(code.slice(end))[0];
    const name = NAME.exec(code.slice(0, end))[0] + rest;
    const reply = { status: "ok", found: false, data: {}, metadata: {} };
    const isDefined = name !== "" && this.evaluator.peek(`typeof (${name})`);
    if (!isDefined || isDefined === "undefined") return reply;
    const value = this.evaluator.peek(name);
    const isSource = typeof value === "function" && level > 0;
    const text = isSource ? Function.prototype.toString.call(value) : util.inspect(value);
    return { ...reply, found: true, data: { "text/plain": `${name}: ${text}` } };
  }
}

/** Returns the index in UTF-16 of a position in characters; the end where none is given. */
function toIndex(code, position) {
  if (position === undefined || position === null) return code.length;
  return [...code].slice(0, position).join("").length;
}

function toPosition(code, index) {
  return [...code.slice(0, index)].length;
}

module.exports = { CodeRequests };
