"use strict";
/** Lets a run end while its servers listen: they go on to serve in the session. */

const { binding } = require("./internals.js");

class ListeningServers {
  constructor() {
    this.handles = new Set();
  }

  /** Makes sockets that listen keep no event loop going. */
  install() {
    const types = [binding("tcp_wrap").TCP, binding("pipe_wrap").Pipe];
    const { handles } = this;
    for (const { prototype } of types) {
      const { listen, close } = prototype;
      prototype.listen = function (...args) {
        const problem = listen.apply(this, args);
        if (!problem) {
          handles.add(this);
          this.unref();
        }
        return problem;
      };
      // `close` is inherited from the type of all handles.
      prototype.close = function (...args) {
        handles.delete(this);
        return close.apply(this, args);
      };
    }
  }

  isAnyListening() {
    return this.handles.size > 0;
  }
}

module.exports = { ListeningServers };
