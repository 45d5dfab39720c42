"use strict";
/** Publishes the output of a program before it ends its own process, and the kernel with it. */

const { installProcessEnds: installThoseOfNode } = require("../../node/kernel/process_ends.js");

function installProcessEnds(link) {
  installThoseOfNode(link);
  const { kill } = Deno;
  Deno.kill = function (pid, signal = "SIGTERM") {
    if (pid === Deno.pid) link.waitForOutput();
    kill(pid, signal);
  };
}

module.exports = { installProcessEnds };
