"use strict";
/** Starts the worker thread. */

const { parentPort } = require("node:worker_threads");

const { requireOwn } = require("./kernel_module_loader.js");

parentPort.postMessage("begun");

const { serveForever } = requireOwn("../../node/kernel/wire_worker.js");
const { DenoWireWorker } = requireOwn("./deno_wire_worker.js");

serveForever(new DenoWireWorker());
