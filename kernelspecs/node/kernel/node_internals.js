"use strict";
/** Parts of Node that it shows only with `--expose-internals`; null where they are not there. */

function load(name) {
  const { emitWarning } = process;
  process.emitWarning = () => {}; // that these are for Node's own tests
  try {
    return require(name);
  } catch {
    return null;
  } finally {
    process.emitWarning = emitWarning;
  }
}

const internalBinding = load("internal/test/binding")?.internalBinding ?? null;

/** Returns one of Node's own bindings. */
function binding(name) {
  return internalBinding === null ? process.binding(name) : internalBinding(name);
}

module.exports = { binding, internalErrors: load("internal/errors") };
