"use strict";
/**
 * A Jupyter kernel for Node whose cells behave like programs of plain `node`.
 *
 *     node main.js CONNECTION_FILE [--typescript] [--modules=DIRECTORY] [--pipes=A,B,C]
 *
 * The main thread runs the program. A worker has all sockets (`wire_worker`), and reads what is
 * written to descriptors 1 and 2 from the descriptors A and B; C is the stderr of before. Without
 * them only what the program itself prints is captured, and not what its children do.
 */

const { requireOwn } = require("./kernel_module_loader.js");

const early = requireOwn("./early.js");
const { parseArguments } = requireOwn("./arguments.js");
const { WorkerLink } = requireOwn("./worker_link.js");

const options = parseArguments(process.argv.slice(2));
const link = new WorkerLink({
  connection: JSON.parse(early.readFileSync(options.connectionFile, "utf8")),
  pipes: options.pipes,
  stderr: options.stderr,
  language: options.language,
  zeromq: options.resolve("zeromq"),
});
try {
  requireOwn("./kernel.js").start(link, options); // while the worker starts
} catch (error) {
  link.logFault(error);
  process.reallyExit(1);
}
