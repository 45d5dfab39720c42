"use strict";
/** Variables of the environment that a run has been given. */

const { get, set, delete: remove } = Deno.env;

/** Sets variables; returns their previous values. */
function setEnvironment(env) {
  const previous = Object.keys(env).map((name) => [name, get(name)]);
  for (const [name, value] of Object.entries(env)) set(name, value);
  return previous;
}

function restoreEnvironment(previous) {
  for (const [name, value] of previous) {
    if (value === undefined) remove(name);
    else set(name, value);
  }
}

module.exports = { restoreEnvironment, setEnvironment };
