"use strict";
/** Publishes the output of a program before it ends its own process, and the kernel with it. */

const { installFlushAtExit: installThoseOfNode } = require("../../node/kernel/flush_at_exit.js");

function installFlushAtExit(link) {
  installThoseOfNode(link);
  const { kill } = Deno;
  Deno.kill = function (pid, signal = "SIGTERM") {
    if (pid === Deno.pid) link.waitForOutput();
    kill(pid, signal);
  };
}

module.exports = { installFlushAtExit };
