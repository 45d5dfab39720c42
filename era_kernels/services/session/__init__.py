"""Runs one session: its queue of runs, its machine and its workspace.

A run, from its submission to its answer:

1. `SessionService.submit` → `LiveSession.submit` → `Runs.submit`: checks, makes a `Job`, and adds
   it to the `RunQueue`. `Runs._open` opens the log of its execution; then the caller, which is
   the web layer, has the `LiveExecution` and follows its events.
2. `RunQueue._run_all` → `Job.run` → `JobRunner.run`, when it is the job's turn and the log is open.
3. `JobRunner._execute`: merges data (`KernelStrategy.prepare`), gets the machine
   (`SessionMachine.acquire`), prepares the workspace (`SessionWorkspace.before_run`), makes the
   request to the kernel (`KernelStrategy.make_process`), and publishes what comes (`pump`).
4. `SessionWorkspace.after_run`, then `JobRunner._finish` publishes `Done`, upon which the caller
   answers, and stores the end; then `Job.end`, and the queue takes the next.

A job is over in this order: `released` (the machine is free), `Done` is published (`is_over`,
`done_event`), the execution is `finished`, `Job.end`, `Job.done`.
"""
