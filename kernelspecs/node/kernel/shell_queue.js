"use strict";
/** Requests that the main thread answers, one after the other. */

class ShellQueue {
  /** `start(request)` begins with a request and returns whether the main thread has it now. */
  constructor(start) {
    this.start = start;
    this.waiting = [];
    this.current = null;
  }

  add(request) {
    this.waiting.push(request);
    this.next();
  }

  /**
   * Goes on with the next request. After a run that failed, runs that wait already are aborted when
   * `abortsWaiting`: their client sent them in the belief that it would go well.
   */
  finish(abortsWaiting) {
    if (abortsWaiting) for (const request of this.waiting) request.isAborted = true;
    this.current = null;
    this.next();
  }

  next() {
    while (this.current === null && this.waiting.length) {
      this.current = this.waiting.shift();
      if (!this.start(this.current)) this.current = null;
    }
  }
}

module.exports = { ShellQueue };
