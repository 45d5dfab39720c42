"use strict";
/**
 * What the package uses, bound before a program can replace it, as programs do for their tests: the
 * kernel loads this at its start, and the rest when a program asks for it.
 */

const fs = require("node:fs");
const process = require("node:process");
const timers = require("node:timers");

const { Buffer, Error, Map, Promise, Set, TypeError, URL, encodeURIComponent } = globalThis;

module.exports = {
  Buffer,
  Error,
  Map,
  Promise,
  Set,
  TypeError,
  URL,
  /** The class of sockets; to load its module takes longer than all else in here. */
  get Socket() {
    return require("node:net").Socket;
  },
  allocate: Buffer.allocUnsafeSlow,
  bytesOf: Buffer.from,
  concat: Buffer.concat,
  createReadStream: fs.createReadStream,
  decodeURIComponent: globalThis.decodeURIComponent,
  encodeURIComponent,
  nextTick: process.nextTick,
  parse: JSON.parse,
  process,
  setImmediate: timers.setImmediate,
  setTimeout: timers.setTimeout,
  stringify: JSON.stringify,
  toBigInt: globalThis.BigInt,
};
