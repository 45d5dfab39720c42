"use strict";
/** The worker thread of Node's kernel. */

const { WireWorker, serveForever } = require("./wire_worker.js");

serveForever(new WireWorker());
