"use strict";
/** Lets a run end while its servers listen: they go on to serve in the session. */

const net = require("node:net");
const http = require("node:http");

class ListeningServers {
  constructor() {
    this.servers = new Set();
  }

  /** Makes what listens keep no event loop going. */
  install() {
    for (const name of ["listen", "listenTls", "serve"]) this.wrapFunction(name);
    this.wrapListen(net.Server.prototype);
    if (http.Server.prototype.listen !== net.Server.prototype.listen) {
      this.wrapListen(http.Server.prototype);
    }
  }

  wrapFunction(name) {
    const original = Deno[name];
    const add = (server) => this.add(server);
    Deno[name] = Object.defineProperty(
      function (...args) {
        return add(original.apply(this, args));
      },
      "name",
      { value: name },
    );
  }

  /** Notes what listens, until it is closed. */
  add(server) {
    const { servers } = this;
    server.unref();
    servers.add(server);
    server.finished?.then(() => servers.delete(server));
    const { close } = server;
    if (typeof close === "function") {
      server.close = function (...args) {
        servers.delete(server);
        return close.apply(this, args);
      };
    }
    return server;
  }

  wrapListen(prototype) {
    const { listen } = prototype;
    const { servers } = this;
    prototype.listen = function (...args) {
      const result = listen.apply(this, args);
      this.unref();
      servers.add(this);
      this.once("close", () => servers.delete(this));
      return result;
    };
  }

  isAnyListening() {
    return this.servers.size > 0;
  }
}

module.exports = { ListeningServers };
