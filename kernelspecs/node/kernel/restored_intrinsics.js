"use strict";
/**
 * The built-in methods of the program's realm, as they were before any code of it ran. Parts of Node
 * call them by name, and fail where a program has broken them: then no run would ever end.
 */

const { EventEmitter } = require("node:events");

const OWNERS = ["Array", "Function", "Map", "Object", "Promise", "Set", "String", "WeakMap"];
const { apply, defineProperty, getOwnPropertyDescriptor, getPrototypeOf, ownKeys } = Reflect;

const places = findPlaces();

function findPlaces() {
  const found = [];
  const { Array, Object } = globalThis;
  const iterator = getPrototypeOf(apply(Array.prototype.values, new Array(), []));
  const objects = OWNERS.map((name) => globalThis[name].prototype);
  for (const object of [...objects, Object, iterator, EventEmitter.prototype]) {
    for (const key of ownKeys(object)) {
      const descriptor = getOwnPropertyDescriptor(object, key);
      if (typeof descriptor.value === "function") found.push({ object, key, descriptor });
    }
  }
  return found;
}

/** Puts all methods back; returns what was in the places of those that had been replaced. */
function restoreIntrinsics() {
  const replaced = [];
  for (const { object, key, descriptor } of places) {
    const current = getOwnPropertyDescriptor(object, key);
    if (current?.value === descriptor.value) continue;
    if (defineProperty(object, key, descriptor)) replaced.push({ object, key, current });
  }
  return replaced;
}

/** Does a step of the kernel with all methods in their places; the program's own come back then. */
function withIntrinsics(action) {
  const replaced = restoreIntrinsics();
  try {
    return action();
  } finally {
    for (const { object, key, current } of replaced) {
      if (current === undefined) delete object[key];
      else defineProperty(object, key, current);
    }
  }
}

module.exports = { restoreIntrinsics, withIntrinsics };
