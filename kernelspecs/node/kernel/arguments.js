"use strict";
/** Reads the arguments of the kernel. */

const Module = require("node:module");
const path = require("node:path");

/** Returns the options; removes what a program should not see of them. */
function parseArguments(args) {
  const named = Object.fromEntries(
    args.filter((one) => one.startsWith("--")).map((one) => one.slice(2).split(/=(.*)/s)),
  );
  const [connectionFile] = args.filter((one) => !one.startsWith("--"));
  const descriptors = named.pipes?.split(",").map(Number);
  const modules = named.modules ?? path.join(__dirname, "..", "node_modules");
  const { resolve } = Module.createRequire(path.join(modules, "..", "package.json"));
  return {
    connectionFile,
    language: "typescript" in named ? "typescript" : "node",
    pipes: descriptors?.slice(0, 2) ?? null,
    stderr: descriptors?.[2] ?? 2,
    resolve,
  };
}

module.exports = { parseArguments };
