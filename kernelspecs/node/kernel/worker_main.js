"use strict";
/** Starts the worker thread. */

require("./own_modules.js").requireOwn("./wire_worker.js");
