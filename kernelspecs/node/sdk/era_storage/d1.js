"use strict";
/** SQL databases. */

const early = require("./early.js");
const requests = require("./requests.js");
const { parseExactly, rowsFromJson, toJson } = require("./sql_values.js");

/**
 * Runs SQL in databases, one for each namespace; a database is made by the first `exec`.
 *
 * Parameters are an array for `?`, or an object for `:name`. Bytes are blobs and BigInts integers,
 * both ways; what comes back beyond 2^53 is a BigInt. Dates go as ISO 8601 text, NaN as NULL. Every
 * method rejects with a StorageError if it fails.
 */
class D1Storage {
  /** Resolves to the rows of a statement that only reads. */
  static async query(namespace, sql, params) {
    const path = `${requests.path("d1", namespace)}/query`;
    const answer = await send("D1 query", path, statement(sql, params), ["results"]);
    return answer.results;
  }

  /**
   * Runs a statement, or several without parameters; resolves to the whole answer. Its `meta` has
   * `changes` and `last_row_id`, among others; `results` are the rows, if any.
   */
  static async exec(namespace, sql, params) {
    const path = `${requests.path("d1", namespace)}/exec`;
    return await send("D1 exec", path, statement(sql, params), [], false);
  }

  /**
   * Runs statements in one transaction, all or none; resolves to the answer to each. A statement is
   * its text, a pair of text and parameters, or an object with `sql` and `params`.
   */
  static async batch(namespace, statements) {
    const path = `${requests.path("d1", namespace)}/batch`;
    const texts = [...statements].map(batched);
    const answer = await send("D1 batch", path, `[${texts.join(",")}]`, ["results"], false);
    return answer.results.map(convert);
  }
}

async function send(what, path, text, names, isRepeatable = true) {
  const options = { names, isRepeatable, parse: parseExactly };
  return convert(await requests.sendJson(what, "POST", path, text, options));
}

/** Returns an answer with the values that JavaScript has for those of JSON. */
function convert(answer) {
  if (answer.results) rowsFromJson(answer.results);
  if (answer.meta) rowsFromJson([answer.meta]);
  return answer;
}

function statement(sql, params) {
  const text = early.stringify(sql) ?? "null";
  if (params === undefined || params === null) return `{"sql":${text}}`;
  if (typeof params !== "object" || isBytes(params)) {
    throw new early.TypeError("params must be an array or an object of values, not one value");
  }
  if (typeof params[Symbol.iterator] === "function") {
    const values = [...params].map((value, index) => toJson(value, index + 1));
    return `{"sql":${text},"params":[${values.join(",")}]}`;
  }
  const pairs = Object.entries(params).map(
    ([name, value]) => `${early.stringify(name)}:${toJson(value, name)}`,
  );
  return `{"sql":${text},"params":{${pairs.join(",")}}}`;
}

function isBytes(value) {
  return ArrayBuffer.isView(value) || value instanceof ArrayBuffer;
}

function batched(one) {
  if (typeof one !== "object" || one === null) return statement(one);
  if (Array.isArray(one)) return statement(one[0], one[1]);
  return statement(one.sql, one.params);
}

module.exports = { D1Storage };
