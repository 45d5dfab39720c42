"use strict";
/**
 * Makes JavaScript of TypeScript by Deno's own means. Types are erased and never checked, as
 * `deno run` does. Decorators, which Deno leaves as they are there, go to the package `typescript`.
 */

const Module = require("node:module");

const { Compiler, splitMap } = require("../../node/kernel/type_transform.js");

const { stripTypeScriptTypes: strip } = Module;
const DECORATOR = /@[\w$(]/;
const PLACE = /\n {4}at file:\/\/\/stripTypeScriptTypes\.ts:(\d+:\d+)/g;

/** Returns the function that transforms a cell; `parses(code)` tells JavaScript. */
function makeTransform(options, parses) {
  const compiler = new Compiler(options);
  const transform = (code, name) => {
    let found;
    try {
      found = erase(code);
    } catch (error) {
      return describe(error, name);
    }
    if (DECORATOR.test(code) && !parses(found.code)) return compiler.transform(code, name, false);
    return found;
  };
  return Object.assign(transform, { isUnfinished: (code) => compiler.isUnfinished(code) });
}

/** Returns `{ code, map }`. Types become blanks where that is enough. Throws a SyntaxError. */
function erase(code) {
  try {
    return { code: strip(code, { mode: "strip" }), map: null };
  } catch {
    return splitMap(keepImports(code, strip(code, { mode: "transform", sourceMap: true })));
  }
}

/** Puts back the imports that the transform took for those of types: later cells may use them. */
function keepImports(code, text) {
  const kept = [];
  for (const [statement] of code.matchAll(/^import\s+(?!type\b)[^;"']+from\s*["'][^"']+["']/gm)) {
    const source = /["'][^"']+["']$/.exec(statement)[0].slice(1, -1);
    if (!text.includes(source)) kept.push(`${statement.replace(/\s+/g, " ")};`);
  }
  return kept.join("") + text;
}

/** Returns what Deno says of code that erasing types alone accepts; null when that is nothing. */
function findMistake(code, name) {
  try {
    strip(code, { mode: "transform" });
    return null;
  } catch (error) {
    return describe(error, name);
  }
}

/** Returns a mistake in the code as Deno tells one. */
function describe(error, name) {
  const message = String(error.message).trimEnd();
  const problem = new SyntaxError(message.replace(/^SyntaxError: /, "").split("\n")[0]);
  return { error: problem, text: `error: ${message.replace(PLACE, `\n    at ${name}:$1`)}\n` };
}

module.exports = { findMistake, makeTransform };
