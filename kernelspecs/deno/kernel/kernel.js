"use strict";
/** Puts the parts of the kernel together, and hands them the messages of the worker. */

const { Cells } = require("../../node/kernel/cells.js");
const { PARSE_OPTIONS } = require("../../node/kernel/cell_syntax.js");
const { CodeRequests } = require("../../node/kernel/code_requests.js");
const { makeDisplayModule } = require("../../node/kernel/display_data.js");
const { RunContext } = require("../../node/kernel/run_context.js");
const { RunTimers } = require("../../node/kernel/timers.js");
const { CellSources } = require("../../node/kernel/user_errors.js");
const { installDisplay } = require("./display.js");
const { ErrorTexts } = require("./error_texts.js");
const { Evaluator } = require("./evaluator.js");
const { ListeningServers } = require("./listening_servers.js");
const { makeParserGetter } = require("./module_parser.js");
const { installFlushAtExit } = require("./flush_at_exit.js");
const { Program } = require("./program.js");
const { ProgramInput } = require("./program_input.js");
const { ProgramModules } = require("./program_modules.js");
const { ProgramOutput } = require("./program_output.js");
const { RunResources } = require("./run_resources.js");
const { makeTransform } = require("./type_transform.js");
const { endProcess, soon } = require("./deno_internals.js");
const { installUncaught } = require("./uncaught_errors.js");
const { installWorkers } = require("./program_workers.js");

const MAIN_NAME = "main.ts";

/** Serves the worker's requests for the rest of the process's life. */
function start(link, options) {
  const getParse = makeParserGetter(options);
  const transform = makeTransform(options, (code) => parses(getParse(), code));
  const context = new RunContext();
  const sources = new CellSources();
  const evaluator = new Evaluator(() => cells.planner.names.lexicalNames());
  const timers = new RunTimers(context);
  const servers = new ListeningServers();
  const resources = new RunResources(context);
  const modules = new ProgramModules(MAIN_NAME);
  const cells = new Cells(sources, getParse, transform, true);
  const errors = new ErrorTexts(sources, modules.url);
  const parts = { cells, context, errors, evaluator, link, modules, resources, servers, timers };
  const program = new Program(parts);
  const input = new ProgramInput(link, context, program);
  const output = new ProgramOutput(link, context, (run) => program.isActive(run));
  const requests = new CodeRequests(evaluator, getParse, transform);

  installKernelObject(program, modules, link);
  errors.installStackFilter();
  output.install();
  input.install(output);
  timers.install();
  servers.install();
  resources.install();
  modules.install();
  installFlushAtExit(link);
  installWorkers(link, program);
  installDisplay(makeDisplayModule((type, content) => program.publish(type, content)));
  installUncaught(program);
  installProgram(program, modules);
  link.post({ kind: "builtins", names: Object.getOwnPropertyNames(globalThis) });
  link.onMessage = makeReceiver({ input, link, program, requests });
}

function makeReceiver({ input, link, program, requests }) {
  const handlers = {
    run: ({ run }) => {
      input.begin();
      program.start(run);
    },
    request: ({ type, content }) =>
      link.post({ kind: "reply", content: requests.answer(type, content) }),
    interrupt: () => program.onInterrupt(),
    wake: () => program.onStopped(),
    where: () => link.post({ kind: "where", frames: program.waitingFrames() }),
    input: ({ value }) => input.onAnswer(value),
    shutdown: () => link.post({ kind: "exit", code: 0 }),
    exit: ({ code }) => endProcess(code),
  };
  return (message) => {
    try {
      handlers[message.kind]?.(message);
    } catch (error) {
      program.onFault(error);
    }
  };
}

function parses(parse, code) {
  try {
    return Boolean(parse(code, PARSE_OPTIONS));
  } catch {
    return false;
  }
}

/** Defines the object that scripts of cells, and the worker, call the kernel by. */
function installKernelObject(program, modules, link) {
  const kernel = {
    at: (line, column, value) => program.at(line, column, value),
    constant: new Proxy(Object.create(null), { get: () => NaN, set: refuseAssignment }),
    end: () => ({}),
    import: (name, options) => modules.import(name, options),
    get imported() {
      return program.imported;
    },
    meta: modules.meta,
    result: (value) => [value],
    revive: () => soon(() => link.revive()), // outside of the inspector's call
    run: (body) => program.runAsync(body),
    waiting: new Promise(() => {}),
  };
  Object.defineProperty(globalThis, "__era", { value: Object.freeze(kernel) });
}

function refuseAssignment() {
  const error = new TypeError("Assignment to constant variable.");
  Error.captureStackTrace(error, refuseAssignment);
  throw error;
}

/** Makes Deno look as it does to a program that `deno run` has started. */
function installProgram(program, modules) {
  const exit = (code) => program.exit(code ?? undefined);
  Deno.exit = exit;
  process.exit = exit;
  process.reallyExit = exit;
  for (const name of ["_", "_error", "clear", "nodeBootstrap"]) delete globalThis[name];
  const shown = { args: [], mainModule: modules.url };
  for (const [name, value] of Object.entries(shown)) {
    const descriptor = { value, writable: true, configurable: true, enumerable: true };
    Object.defineProperty(Deno, name, descriptor);
  }
  Deno.permissions.revokeSync({ name: "ffi" }); // whatever the walls are
  process.argv.splice(1, process.argv.length, modules.file);
}

module.exports = { start };
