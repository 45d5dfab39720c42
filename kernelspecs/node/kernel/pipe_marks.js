"use strict";
/**
 * Marks in the pipes of descriptors 1 and 2, by which the worker knows the order of what comes from
 * both. The main thread writes the same mark to both pipes; what stands before it was written
 * before, what stands behind it later. A mark may stand for a message that the main thread posts.
 *
 * The secret is made anew by each kernel, so that no output contains a mark by accident.
 */

// Bound before a program can replace them.
const { concat, from } = Buffer;

/**
 * Returns a new secret. It keeps no program out, which could read it in this very process; so
 * `node:crypto`, which takes 5 ms to load, is not needed.
 */
function makeSecret() {
  const digits = () => Math.random().toString(36).slice(2, 12).padEnd(10, "0");
  return digits() + digits();
}

/** Returns the bytes that all marks of a kernel begin with. */
function markPrefix(secret) {
  return from(`\0era${secret}`, "latin1");
}

/** Returns a mark; `isMessage` says that a posted message of that number belongs here. */
function makeMark(prefix, number, isMessage) {
  return concat([prefix, from(`${isMessage ? "m" : "s"}${number};`, "latin1")]);
}

/**
 * Looks for a mark in `data` from `start` on.
 *
 * Returns `{start, end, number, isMessage}`, or `{start, end: -1}` when a mark, or what may become
 * one, begins there and is not whole, or null.
 */
function findMark(prefix, data, start) {
  const at = data.indexOf(prefix, start);
  if (at >= 0) {
    const end = data.indexOf(0x3b, at + prefix.length); // ";"
    if (end < 0) return { start: at, end: -1 };
    const text = data.toString("latin1", at + prefix.length, end);
    return { start: at, end: end + 1, number: Number(text.slice(1)), isMessage: text[0] === "m" };
  }
  const from = Math.max(start, data.length - prefix.length + 1);
  for (let cut = data.indexOf(0, from); cut >= 0; cut = data.indexOf(0, cut + 1)) {
    if (prefix.indexOf(data.subarray(cut)) === 0) return { start: cut, end: -1 };
  }
  return null;
}

module.exports = { findMark, makeMark, makeSecret, markPrefix };
