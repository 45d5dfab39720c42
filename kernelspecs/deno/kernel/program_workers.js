"use strict";
/** The workers of a program: what they may not ask for. */

const UNSTABLE =
  "Unstable API 'Worker.deno.permissions'. The `--unstable-worker-options` flag must be provided.\n";
const UNSTABLE_CODE = 70;

/** Ends the run, as Deno ends the process, where a worker is made by an option that is not there. */
function installWorkers(link, program) {
  globalThis.Worker = new Proxy(globalThis.Worker, {
    construct(target, args, newTarget) {
      if (args[1]?.deno?.permissions) {
        link.write(2, UNSTABLE);
        program.exit(UNSTABLE_CODE);
      }
      return Reflect.construct(target, args, newTarget);
    },
  });
}

module.exports = { installWorkers };
