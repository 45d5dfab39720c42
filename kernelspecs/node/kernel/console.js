"use strict";
/**
 * Replaces the methods of `console` by Node's own without the inspector, which keeps the last
 * thousand messages, and makes each slower, as soon as a session is connected.
 */

const { Console } = require("node:console");

/** `isOwn(stream)` tells the kernel's own streams. */
function plainConsole(isOwn) {
  const { prototype } = Console;
  for (const name of Object.keys(prototype)) {
    if (typeof prototype[name] !== "function" || typeof console[name] !== "function") continue;
    console[name] = prototype[name].bind(console);
    Object.defineProperty(console[name], "name", { value: name });
  }
  writeDirectly(isOwn);
}

/**
 * Makes the console write to the kernel's own streams without a listener of errors, which they never
 * have. To add and remove one is slower, and needs functions that a program may have broken: then
 * what it logs would be lost without a word.
 */
function writeDirectly(isOwn) {
  const findKey = (name) =>
    Object.getOwnPropertySymbols(console).find(({ description }) => description === name);
  const key = findKey("kWriteToConsole");
  const indentKey = findKey("kGroupIndentationString") ?? findKey("kGroupIndent");
  const original = key && console[key];
  if (typeof original !== "function" || typeof console[indentKey] !== "string") return;
  const { apply, getPrototypeOf } = Reflect;
  const isReplaced = (stream) =>
    Object.hasOwn(stream, "write") && typeof stream.write === "function";
  const ignore = () => {};
  const write = function (use, text) {
    const stream = use.description === "kUseStdout" ? console._stdout : console._stderr;
    const isPlain = this === console && isOwn(stream) && !isReplaced(stream);
    if (!isPlain) return apply(original, this, [use, text]);
    const indent = console[indentKey];
    const lines = indent === "" ? text : indent + text.replaceAll("\n", `\n${indent}`);
    try {
      apply(getPrototypeOf(stream).write, stream, [`${lines}\n`, ignore]);
    } catch (error) {
      if (error instanceof RangeError && /call stack/.test(error.message)) throw error;
    }
  };
  Object.defineProperty(console, key, { value: write, writable: true, configurable: true });
}

module.exports = { plainConsole };
