"use strict";
/** What a program is told at its end. */

/** Tells the program that its event loop is empty; returns whether it still is. */
function mayEnd(isWorkLeft) {
  const event = new Event("beforeunload", { cancelable: true });
  globalThis.dispatchEvent(event);
  process.emit("beforeExit", Number(Deno.exitCode));
  return !event.defaultPrevented && !isWorkLeft();
}

/** Calls what the program has registered for its end. */
function endProgram(run) {
  const wasDead = run.isDead;
  run.isDead = false;
  if (run.exitCode !== null) Deno.exitCode = run.exitCode;
  try {
    globalThis.dispatchEvent(new Event("unload"));
    process.emit("exit", Number(Deno.exitCode));
    if (run.exitCode !== null) run.exitCode = Number(Deno.exitCode) & 0xff;
  } catch {
    run.exitCode = 1;
  }
  run.isDead = wasDead;
}

module.exports = { endProgram, mayEnd };
