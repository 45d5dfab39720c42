"use strict";
/**
 * Puts what comes through the two pipes into one order, by the marks in them (see `pipe_marks`).
 *
 * A pipe that is at a mark waits until the other one is at the same mark. Then everything before it
 * has been handed on, and the message of the mark, if it stands for one, is handled.
 */

const fs = require("node:fs");
const net = require("node:net");

const { findMark } = require("./pipe_marks.js");

const READ_BYTES = 64 * 1024;

/** One pipe: what was read and not handed on, and the mark that it waits at. */
class Pipe {
  constructor(name) {
    this.name = name;
    this.data = Buffer.alloc(0);
    this.mark = null;
    this.isClosed = false;
  }
}

class PipeMerger {
  /**
   * `onText(name, bytes)` gets the output of "stdout" and "stderr", `onMark(number)` is called for
   * marks that stand for messages. While `isFull()`, nothing is read, until `resume` is called: then
   * the pipes fill, and the program waits.
   */
  constructor(prefix, onText, onMark, isFull) {
    this.prefix = prefix;
    this.onText = onText;
    this.onMark = onMark;
    this.isFull = isFull;
    this.sockets = [];
    this.isPaused = false;
    this.pipes = [new Pipe("stdout"), new Pipe("stderr")];
  }

  /** Starts to read the two descriptors. */
  read(descriptors) {
    descriptors.forEach((descriptor, index) => {
      const socket = new net.Socket({
        fd: descriptor,
        readable: true,
        writable: false,
        onread: {
          buffer: Buffer.allocUnsafeSlow(READ_BYTES),
          callback: (count, buffer) => {
            this.push(index, buffer.subarray(0, count));
            if (this.isFull()) this.pause();
            return !this.isPaused;
          },
        },
      });
      socket.on("error", () => this.close(index));
      socket.on("end", () => this.close(index));
      this.sockets.push(socket);
    });
  }

  /** Hands on what is left in pipes that nobody writes to any more. */
  readRest(descriptors) {
    const buffer = Buffer.alloc(READ_BYTES);
    descriptors.forEach((descriptor, index) => {
      try {
        for (let count = 1; count > 0; ) {
          count = fs.readSync(descriptor, buffer);
          this.push(index, buffer.subarray(0, count));
        }
      } catch {
        // a child has it, and has written nothing more
      }
    });
    this.close(0);
    this.close(1);
  }

  pause() {
    this.isPaused = true;
    for (const socket of this.sockets) socket.pause();
  }

  /** Reads on, where nothing is in the way. */
  resume() {
    if (!this.isPaused || this.isFull()) return;
    this.isPaused = false;
    for (const socket of this.sockets) socket.resume();
  }

  /** Takes data from one pipe; the memory is the caller's again afterwards. */
  push(index, data) {
    const pipe = this.pipes[index];
    if (pipe.data.length || pipe.mark !== null) {
      pipe.data = Buffer.concat([pipe.data, data]);
    } else {
      pipe.data = data;
    }
    this.advance();
    if (pipe.data.length) pipe.data = Buffer.from(pipe.data);
  }

  /** Says that nothing comes through a pipe any more: the other does not wait for it. */
  close(index) {
    this.pipes[index].isClosed = true;
    this.advance();
  }

  /** Hands on all that is in order. */
  advance() {
    for (;;) {
      for (const pipe of this.pipes) if (pipe.mark === null) this.scan(pipe);
      const [first, second] = this.pipes;
      const mark = first.mark ?? second.mark;
      if (mark === null) return;
      const isThere = (pipe) => pipe.isClosed || pipe.mark?.number === mark.number;
      if (!isThere(first) || !isThere(second)) {
        if (!this.skipLostMark()) return;
        continue;
      }
      first.mark = second.mark = null;
      if (mark.isMessage) this.onMark(mark.number);
    }
  }

  /**
   * Lets go a mark whose twin never comes, because a program closed a descriptor for a while: the
   * other pipe is at a later one already. Returns whether there was one.
   */
  skipLostMark() {
    const [first, second] = this.pipes.map((pipe) => pipe.mark);
    if (first === null || second === null) return false;
    const pipe = this.pipes[first.number < second.number ? 0 : 1];
    const { isMessage, number } = pipe.mark;
    pipe.mark = null;
    if (isMessage) this.onMark(number);
    return true;
  }

  /** Hands on the texts of a pipe up to its next mark. */
  scan(pipe) {
    if (!pipe.data.length) return;
    const mark = findMark(this.prefix, pipe.data, 0);
    const end = mark === null ? pipe.data.length : mark.start;
    if (end > 0) this.onText(pipe.name, pipe.data.subarray(0, end));
    if (mark === null) {
      pipe.data = pipe.data.subarray(end);
    } else if (mark.end < 0) {
      pipe.data = pipe.data.subarray(mark.start);
    } else {
      pipe.data = pipe.data.subarray(mark.end);
      pipe.mark = mark;
    }
  }
}

module.exports = { PipeMerger };
