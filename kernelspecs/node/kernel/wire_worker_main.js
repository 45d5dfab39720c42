"use strict";
/** Starts the worker thread. */

const { requireOwn } = require("./own_modules.js");

const { WireWorker, serveForever } = requireOwn("./wire_worker.js");

serveForever(new WireWorker());
