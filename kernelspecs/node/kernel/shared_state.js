"use strict";
/** Places in the memory that both threads share: 32-bit numbers. */

module.exports = {
  ANSWER_COUNT: 0, // how often the event loop of the main thread has answered
  INPUT_READY: 1, // raised with each answer to a request for input
  ALWAYS_ZERO: 2, // to wait at, for a time
  FLUSH_COUNT: 3, // how often the worker has published all output on request
  SENT_COUNT: 4, // of messages that readers made room for
  IS_STOPPING: 5, // 1 from when code is stopped until the main thread was told (Deno)
  SIZE: 6,
};
