"use strict";
/** Starts the worker thread. */

const { requireOwn } = require("./kernel_module_loader.js");

const { WireWorker, serveForever } = requireOwn("./wire_worker.js");

serveForever(new WireWorker());
