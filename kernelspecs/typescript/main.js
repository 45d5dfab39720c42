"use strict";
/** The kernel of Node, with TypeScript's types erased from what it runs. */

process.argv.push("--typescript");
require("../node/kernel/main.js");
