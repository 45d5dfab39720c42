"use strict";
/** Turns values of SQL into JSON and back. */

const early = require("./early.js");

// The names in an object that stand for bytes, and, only in here, for an integer that no number of
// JavaScript is. The server has no other objects among the values of a row.
const BLOB = "base64";
const INTEGER = "integer";

/** Returns the JSON of a parameter. Throws a TypeError, with its name or number, for others. */
function toJson(value, name) {
  switch (typeof value) {
    case "string":
    case "boolean":
      return early.stringify(value);
    case "number":
      return Number.isFinite(value) ? early.stringify(value) : "null";
    case "bigint":
      return `${value}`;
  }
  if (value === null) return "null";
  const bytes = toBytes(value);
  if (bytes !== null) return `{"${BLOB}":"${bytes.toString("base64")}"}`;
  if (value instanceof Date) return isNaN(value) ? "null" : `"${value.toISOString()}"`;
  const type = typeof value === "object" ? (value.constructor?.name ?? "object") : typeof value;
  throw new early.TypeError(
    `parameter ${name} is of type ${type}: pass a number, a text, bytes or null`,
  );
}

/** Returns the bytes of a Buffer, an ArrayBuffer or a view of one; null for anything else. */
function toBytes(value) {
  if (ArrayBuffer.isView(value)) {
    return early.bytesOf(value.buffer, value.byteOffset, value.byteLength);
  }
  const isBuffer =
    value instanceof ArrayBuffer ||
    Object.prototype.toString.call(value) === "[object SharedArrayBuffer]" ||
    Object.prototype.toString.call(value) === "[object ArrayBuffer]";
  return isBuffer ? early.bytesOf(value) : null;
}

/** Replaces, in rows, what stands for bytes and large integers. */
function rowsFromJson(rows) {
  for (const row of rows) {
    if (typeof row !== "object" || row === null) continue;
    for (const [name, value] of Object.entries(row)) {
      const found = fromJson(value);
      if (found === value) continue;
      // Not an assignment: a column may have the name `__proto__`.
      Object.defineProperty(row, name, {
        value: found,
        writable: true,
        enumerable: true,
        configurable: true,
      });
    }
  }
}

function fromJson(value) {
  if (typeof value !== "object" || value === null) return value;
  if (typeof value[BLOB] === "string") return early.bytesOf(value[BLOB], "base64");
  if (typeof value[INTEGER] === "string") return early.toBigInt(value[INTEGER]);
  return value;
}

/** Parses JSON; an integer that is no safe number becomes an object for `rowsFromJson`. */
function parseExactly(text) {
  return early.parse(/\d{16}/.test(text) ? markLargeIntegers(text) : text);
}

function markLargeIntegers(text) {
  const parts = [];
  let start = 0; // of what lies outside of strings
  while (start < text.length) {
    let end = text.indexOf('"', start);
    if (end < 0) end = text.length;
    parts.push(text.slice(start, end).replace(/-?\d[\d.eE+-]*/g, markInteger));
    if (end === text.length) break;
    start = endOfString(text, end);
    parts.push(text.slice(end, start));
  }
  return parts.join("");
}

function endOfString(text, begin) {
  for (let end = begin + 1; ; end++) {
    end = text.indexOf('"', end);
    if (end < 0) return text.length;
    let before = end;
    while (text[before - 1] === "\\") before--;
    if ((end - before) % 2 === 0) return end + 1;
  }
}

function markInteger(number) {
  const isLarge = /^-?\d{16,}$/.test(number) && !Number.isSafeInteger(Number(number));
  return isLarge ? `{"${INTEGER}":"${number}"}` : number;
}

module.exports = { parseExactly, rowsFromJson, toBytes, toJson };
