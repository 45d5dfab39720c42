"use strict";
/** Functions that the kernel uses, bound before any code of a program can replace them. */

const fs = require("node:fs");

const { setImmediate, setTimeout, clearTimeout, clearInterval, clearImmediate, setInterval } =
  globalThis;

const { of: makeList } = Array;
const { getPrototypeOf, setPrototypeOf } = Object;
const prototypeOfFunctions = getPrototypeOf(globalThis.Function);

/** Returns the elements of a list that is the program's; none of its code is run. */
function copyList(list) {
  const copy = [];
  for (let index = 0; index < list.length; index++) copy.push(list[index]);
  return copy;
}

/** Makes a function one of the program's realm, which the program may look at. */
function makeForeign(action) {
  return setPrototypeOf(action, prototypeOfFunctions);
}

module.exports = {
  clearImmediate,
  clearInterval,
  clearTimeout,
  closeSync: fs.closeSync,
  copyList,
  existsSync: fs.existsSync,
  makeForeign,
  makeList: makeList.bind(globalThis.Array),
  nextTick: process.nextTick.bind(process),
  readFileSync: fs.readFileSync,
  setImmediate,
  setInterval,
  setTimeout,
  statSync: fs.statSync,
  then: Function.prototype.call.bind(Promise.prototype.then),
  writeSync: fs.writeSync,
};
