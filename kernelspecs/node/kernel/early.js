"use strict";
/** Functions that the kernel uses, bound before any code of a program can replace them. */

const fs = require("node:fs");

const { setImmediate, setTimeout, clearTimeout, clearInterval, clearImmediate, setInterval } =
  globalThis;

module.exports = {
  clearImmediate,
  clearInterval,
  clearTimeout,
  closeSync: fs.closeSync,
  existsSync: fs.existsSync,
  nextTick: process.nextTick.bind(process),
  readFileSync: fs.readFileSync,
  setImmediate,
  setInterval,
  setTimeout,
  statSync: fs.statSync,
  then: Function.prototype.call.bind(Promise.prototype.then),
  writeSync: fs.writeSync,
};
