"use strict";
/** Lets a run end while its servers listen: they go on to serve in the session. */

const early = require("./early.js");
const { binding } = require("./node_internals.js");

class ListeningServers {
  constructor() {
    this.clients = new Map(); // handles that listen → handles of their connections
  }

  /** Makes sockets that listen, and connections to them, keep no event loop going. */
  install() {
    const { clients } = this;
    for (const { prototype } of [binding("tcp_wrap").TCP, binding("pipe_wrap").Pipe]) {
      const { listen, close } = prototype;
      prototype.listen = function (...args) {
        const problem = early.apply(listen, this, args);
        if (!problem) {
          clients.set(this, new Set());
          this.unref();
          wrapConnections(this, clients.get(this));
        }
        return problem;
      };
      // `close` is inherited from the type of all handles.
      prototype.close = function (...args) {
        // A program that closes its server waits until the connections are closed, too.
        for (const client of clients.get(this) ?? []) client.ref();
        clients.delete(this);
        return early.apply(close, this, args);
      };
    }
  }

  isAnyListening() {
    return this.clients.size > 0;
  }
}

/** Makes the connections that a handle accepts keep no event loop going. */
function wrapConnections(handle, connections) {
  const accept = handle.onconnection;
  handle.onconnection = function (status, connection) {
    if (connection) {
      connection.unref();
      connections.add(connection);
      const { close } = connection;
      connection.close = function (...args) {
        connections.delete(connection);
        return early.apply(close, this, args);
      };
    }
    return early.apply(accept, this, [status, connection]);
  };
}

module.exports = { ListeningServers };
