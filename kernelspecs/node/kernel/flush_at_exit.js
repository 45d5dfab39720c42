"use strict";
/** Publishes the output of a program before it ends its own process. */

const early = require("./early.js");

/** Wraps the functions by which a program ends the process, and the kernel with it. */
function installFlushAtExit(link) {
  const { abort, kill, reallyExit } = process;
  process.abort = early.makeForeign(function abortProcess() {
    link.waitForOutput();
    abort();
  });
  process.kill = early.makeForeign(function killProcess(pid, signal) {
    if ((pid === process.pid || pid === 0) && signal !== 0) link.waitForOutput();
    return early.apply(kill, process, [pid, signal]);
  });
  process.reallyExit = early.makeForeign(function exitProcess(code) {
    link.waitForOutput();
    link.waitForEnd(Number(code ?? process.exitCode ?? 0) & 0xff);
    early.apply(reallyExit, process, [code]);
  });
  return reallyExit.bind(process);
}

module.exports = { installFlushAtExit };
