"use strict";
/** What the kernel tells of itself. */

const { describeKernel: describeNode } = require("../../node/kernel/standard_requests.js");

/** Returns the content of a `kernel_info_reply`. */
function describeKernel() {
  const info = describeNode("typescript");
  return {
    ...info,
    language_info: { ...info.language_info, version: Deno.version.typescript },
    banner: `Deno ${Deno.version.deno}`,
  };
}

module.exports = { describeKernel };
