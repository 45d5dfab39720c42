"use strict";
/**
 * A Jupyter kernel for Deno whose cells behave like programs of plain `deno run`.
 *
 *     deno repl --eval='require("main.js")' -- CONNECTION_FILE --modules=DIRECTORY --pipes=A,B,C
 *
 * It shares with Node's kernel, whose files are beside it, all that the two have in common. The main
 * thread runs the program; a worker has the sockets, reads descriptors 1 and 2 from A and B, and
 * stops the main thread's code by Deno's inspector. C is the stderr of before.
 */

const path = require("node:path");

const { requireOwn } = require("./kernel_module_loader.js");

const early = requireOwn("../../node/kernel/early.js");
const { parseArguments } = requireOwn("../../node/kernel/arguments.js");
const { InspectorClient, openInspector, startWorkersAtOnce } = requireOwn("./inspector.js");
const { endProcess } = requireOwn("./deno_internals.js");
const { RevivableLink } = requireOwn("./revivable_link.js");

const options = parseArguments(Deno.args);

/** Makes the worker; the inspector is told before. Resolves when the worker is about to begin. */
async function makeLink() {
  const inspectorUrl = openInspector();
  const client = inspectorUrl === null ? null : new InspectorClient(inspectorUrl);
  let onLet;
  const isLet = new Promise((resolve) => (onLet = resolve));
  if (client !== null) await startWorkersAtOnce(client, onLet);
  const link = new RevivableLink({
    connection: JSON.parse(early.readFileSync(options.connectionFile, "utf8")),
    pipes: options.pipes,
    stderr: options.stderr,
    language: "deno",
    zeromq: path.join(__dirname, "zmtp.js"),
    inspectorUrl,
  });
  // It needs no more of this thread then, which has modules to load meanwhile.
  await Promise.race([isLet, link.hasBegun]);
  if (client !== null) link.hasBegun.then(() => client.close());
  return link;
}

module.exports = makeLink().then((link) => {
  try {
    requireOwn("./kernel.js").start(link, options);
  } catch (error) {
    link.logFault(error);
    endProcess(1);
  }
});
