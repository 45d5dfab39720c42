"use strict";
/** Starts the worker thread. */

const { requireOwn } = require("./own_modules.js");

const { serveForever } = requireOwn("../../node/kernel/wire_worker.js");
const { DenoWireWorker } = requireOwn("./deno_wire_worker.js");

serveForever(new DenoWireWorker());
