"use strict";
/** Tells whose a call is. A caller that `isDead` is silent: its calls are not sent, nor settled. */

const callOwner = {
  /** Returns the caller that runs now; null where there is only one. A kernel replaces it. */
  current: () => null,
};

module.exports = callOwner;
