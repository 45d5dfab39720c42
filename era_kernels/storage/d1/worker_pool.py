"""Shares a few workers among all namespaces: one writer each, and none can take all workers."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from era_kernels.concurrency.background import BackgroundTasks
from era_kernels.errors import QueueFull, ShuttingDown, Unavailable
from era_kernels.storage.d1.worker.outcomes import Outcome
from era_kernels.storage.d1.worker_process import (
    Reply,
    WorkerEnded,
    WorkerProcess,
    can_speed_up,
)

log = logging.getLogger(__name__)

# Workers that are ready, or run something that has not taken long yet: of a server, and of a
# command that asks one database. A namespace that had a long request does not get the last one.
WORKERS, FEWEST_WORKERS = 4, 2
MAX_WORKERS = 8  # with those that run something long, which keep nobody else waiting
MAX_LONG = 6  # requests that run long at once: new databases without end would take every worker
MAX_PER_NAMESPACE = 2  # requests of one namespace that run at once
MAX_WAITING = 256  # requests of one namespace that wait
SLOW_SECONDS = 0.25  # of running, from which a request is long
RECENT_SECONDS = 30.0  # for which a namespace that had a long request does not get the last worker
KILL_GRACE = 1.0  # seconds past the deadline until a worker is killed that did not stop itself
CHANGE_GRACE = 3.0  # the same for a change that is to begin again: nobody knows what a kill leaves
RESTART_SECONDS = 1.0  # between two tries to start a worker, where that fails

StartWorker = Callable[[], Awaitable[WorkerProcess]]


class DeadlinePassed(Exception):
    """The worker did not stop at the deadline, and was killed."""


@dataclass(eq=False, slots=True)
class Job:
    """A request to a worker; `timeout` are the seconds that it may run."""

    namespace: str
    is_write: bool
    request: bytes
    timeout: float
    reply: asyncio.Future[Reply] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    abandoned: asyncio.Future[None] | None = None  # done when nobody wants the reply any more
    number: int = 0  # later jobs have greater ones
    worker: WorkerProcess | None = None
    timer: asyncio.TimerHandle | None = None
    was_killed: bool = False
    is_long: bool = False
    was_stopped: bool = False  # it became long when there were MAX_LONG; it waits, and begins again

    def cancel(self, _: object) -> None:
        """Cancels the wait for the reply."""
        self.reply.cancel()


@dataclass(slots=True)
class Waiting:
    """The jobs of one namespace that wait: a read need not wait for the writer."""

    reads: deque[Job] = field(default_factory=deque)
    writes: deque[Job] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.reads) + len(self.writes)

    def queue_of(self, job: Job) -> deque[Job]:
        return self.writes if job.is_write else self.reads


class RecentNames:
    """Remembers names for some seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._added_at: OrderedDict[str, float] = OrderedDict()

    def add(self, name: str) -> None:
        self._added_at[name] = time.monotonic()
        self._added_at.move_to_end(name)
        self._forget_old()

    def has(self, name: str) -> bool:
        self._forget_old()
        return name in self._added_at

    def _forget_old(self) -> None:
        limit = time.monotonic() - self._seconds
        while self._added_at and next(iter(self._added_at.values())) < limit:
            self._added_at.popitem(last=False)


class WorkerPool:
    """Runs requests in workers, which start with the first request."""

    def __init__(self, start_worker: StartWorker, workers: int = WORKERS) -> None:
        """Starts `workers` with the first request, and more for what takes long."""
        self._start_worker = start_worker
        self._workers = workers
        self._idle: list[WorkerProcess] = []
        self._busy: dict[WorkerProcess, Job] = {}
        self._starting = 0
        self._numbers = itertools.count()
        self._waiting: OrderedDict[str, Waiting] = OrderedDict()
        self._running: Counter[str] = Counter()
        self._writing: set[str] = set()
        self._slow_namespaces = RecentNames(RECENT_SECONDS)
        self._tasks = BackgroundTasks()
        self._is_closed = False

    @property
    def worker_pids(self) -> list[int]:
        """The processes of all workers."""
        return [worker.pid for worker in (*self._idle, *self._busy)]

    async def run(self, job: Job) -> Reply:
        """Returns the reply to a job.

        A read whose caller is cancelled, or that is abandoned, is stopped, and raises
        CancelledError; a write runs to its end. Raises WorkerEnded, DeadlinePassed, QueueFull,
        Unavailable when no turn came, ShuttingDown.
        """
        if self._is_closed:
            raise ShuttingDown("The server is stopping.")
        waiting = self._waiting.setdefault(job.namespace, Waiting())
        if len(waiting) >= MAX_WAITING:
            raise QueueFull(f"{len(waiting)} requests to this database wait already.")
        job.number = next(self._numbers)
        waiting.queue_of(job).append(job)
        self._dispatch()
        if job.worker is None:
            job.timer = asyncio.get_running_loop().call_later(job.timeout, self._give_up, job)
        if job.abandoned is not None:
            job.abandoned.add_done_callback(job.cancel)
        try:
            return await job.reply
        except asyncio.CancelledError:
            self._abandon(job)
            raise
        finally:
            if job.abandoned is not None:
                job.abandoned.remove_done_callback(job.cancel)

    async def aclose(self) -> None:
        """Ends all workers, and what runs in them; a second call is fine."""
        self._is_closed = True
        for waiting in self._waiting.values():
            for job in (*waiting.reads, *waiting.writes):
                _fail(job, ShuttingDown("The server is stopping."))
        self._waiting.clear()
        for worker in self._busy:
            worker.kill()
        for worker in self._idle:
            self._tasks.spawn(worker.aclose())
        self._idle.clear()
        await self._tasks.aclose()

    # ------------------------------------------------------------ whose turn it is

    def _dispatch(self) -> None:
        """Starts what may start, the namespaces in turn; starts workers where some are missing."""
        self._fill()
        has_started = True
        while has_started:
            has_started = False
            for namespace in list(self._waiting):
                job = self._next_job(namespace) if self._idle else None
                if job is not None:
                    self._start(job, self._idle.pop())
                    has_started = True

    def _next_job(self, namespace: str) -> Job | None:
        """Takes the job of a namespace whose turn it is, and puts the namespace last."""
        running, waiting = self._running[namespace], self._waiting[namespace]
        if not waiting:
            del self._waiting[namespace]
            return None
        # The last worker is for namespaces that have none, and did not take one for long before.
        is_last = len(self._idle) < 2
        if running >= MAX_PER_NAMESPACE or (
            is_last and (running or self._slow_namespaces.has(namespace))
        ):
            return None
        queues = [waiting.reads] if namespace in self._writing else [waiting.reads, waiting.writes]
        queues = [queue for queue in queues if queue]
        if not queues:
            return None
        candidates = [job for queue in queues for job in queue if self._has_place(job)]
        if not candidates:
            return None
        self._waiting.move_to_end(namespace)
        job = min(candidates, key=lambda job: job.number)
        waiting.queue_of(job).remove(job)
        return job

    def _has_place(self, job: Job) -> bool:
        """Returns whether a job may start; one that is known to be long waits for fewer such."""
        return not job.was_stopped or self._long_count() < MAX_LONG

    def _long_count(self) -> int:
        return sum(job.is_long for job in self._busy.values())

    def _start(self, job: Job, worker: WorkerProcess) -> None:
        job.worker, job.is_long, job.was_stopped = worker, job.was_stopped, False
        self._busy[worker] = job
        self._running[job.namespace] += 1
        if job.is_write:
            self._writing.add(job.namespace)
        if job.timer is not None:
            job.timer.cancel()
        job.timer = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._slow_down, job)
        if can_speed_up() and self._slow_namespaces.has(job.namespace):
            worker.slow_down()  # at once: others need not wait until it is known to be long
        worker.send(job.request).add_done_callback(partial(self._on_done, job, worker))

    def _on_done(self, job: Job, worker: WorkerProcess, answer: asyncio.Future[Reply]) -> None:
        assert job.timer is not None
        job.timer.cancel()
        del self._busy[worker]
        self._running[job.namespace] -= 1
        if not self._running[job.namespace]:
            del self._running[job.namespace]
        if job.is_write:
            self._writing.discard(job.namespace)
        error = answer.exception()
        if job.was_stopped and _changed_nothing(job, answer):
            self._wait_again(job)
        elif error is not None:
            is_late = job.was_killed and not job.was_stopped
            _fail(job, DeadlinePassed() if is_late else error)
        elif not job.reply.done():
            job.reply.set_result(answer.result())
        if worker.is_slow and len(self._idle) < self._workers:
            worker.speed_up()
        # One that is slow has been replaced already; one that ran out of memory may be short of it
        # for the next request. One that could not be interrupted ends by itself.
        head = answer.result().head if error is None else {}
        is_fit = (
            error is None
            and head.get("outcome") != Outcome.OUT_OF_MEMORY
            and not head.get("is_ending")
        )
        if is_fit and worker.is_alive and not worker.is_slow and not self._is_closed:
            self._idle.append(worker)
        else:
            self._tasks.spawn(worker.aclose())
        if not self._is_closed:
            self._dispatch()

    # ------------------------------------------------------------ time

    def _wait_again(self, job: Job) -> None:
        """Has a job begin again when fewer are long, if somebody still waits for its reply."""
        if job.reply.done() or self._is_closed:
            _fail(job, ShuttingDown("The server is stopping."))
            return
        job.worker, job.was_killed = None, False
        self._waiting.setdefault(job.namespace, Waiting()).queue_of(job).append(job)
        job.timer = asyncio.get_running_loop().call_later(job.timeout, self._give_up, job)

    def _give_up(self, job: Job) -> None:
        """Fails a job that waited too long for its turn."""
        self._forget(job)
        _fail(job, Unavailable("The database is busy: no turn came in time.", retry_after=1))

    def _slow_down(self, job: Job) -> None:
        """Notes that a request is long, and stops it where there are too many such requests."""
        assert job.worker is not None
        if not job.is_long and self._long_count() >= MAX_LONG:
            job.was_stopped = True
            job.worker.interrupt()
            rest = CHANGE_GRACE if job.is_write else KILL_GRACE
        else:
            job.is_long = True
            job.worker.slow_down()
            rest = KILL_GRACE + max(0.0, job.timeout - SLOW_SECONDS)
        job.timer = asyncio.get_running_loop().call_later(rest, self._kill, job)
        self._slow_namespaces.add(job.namespace)
        self._dispatch()

    def _kill(self, job: Job) -> None:
        assert job.worker is not None
        job.was_killed = True
        job.worker.kill()

    def _abandon(self, job: Job) -> None:
        if job.worker is None:
            self._forget(job)
        elif not job.is_write and self._busy.get(job.worker) is job:
            job.worker.interrupt()

    def _forget(self, job: Job) -> None:
        if job.timer is not None:
            job.timer.cancel()
        waiting = self._waiting.get(job.namespace)
        if waiting is not None:
            with suppress(ValueError):
                waiting.queue_of(job).remove(job)

    # ------------------------------------------------------------ workers

    def _fill(self) -> None:
        """Starts workers until there are enough that are not slow."""
        self._idle = [worker for worker in self._idle if self._is_usable(worker)]
        slow = sum(worker.is_slow for worker in self._busy)
        fresh = len(self._idle) + len(self._busy) - slow + self._starting
        wanted = min(self._workers - fresh, MAX_WORKERS - fresh - slow)
        for _ in range(wanted):
            self._starting += 1
            self._tasks.spawn(self._add_worker())

    def _is_usable(self, worker: WorkerProcess) -> bool:
        if not worker.is_alive:
            log.warning("a D1 worker ended by itself")
            self._tasks.spawn(worker.aclose())
        return worker.is_alive

    async def _add_worker(self) -> None:
        try:
            worker = await self._start_worker()
        # RuntimeError: no thread can be started.
        except (OSError, RuntimeError, MemoryError, WorkerEnded):
            log.exception("a D1 worker cannot be started")
            await asyncio.sleep(RESTART_SECONDS)
            self._starting -= 1
        else:
            self._starting -= 1
            if self._is_closed:
                await worker.aclose()
                return
            self._idle.append(worker)
        if not self._is_closed:
            self._dispatch()


def _changed_nothing(job: Job, answer: asyncio.Future[Reply]) -> bool:
    """Returns whether a job that was stopped may begin again.

    A worker that is stopped while it still starts, or that does not hear, ends: of a change nobody
    knows then.
    """
    if answer.exception() is not None:
        return not job.is_write
    return answer.result().head.get("outcome") in (Outcome.CANCELLED, Outcome.TIMEOUT)


def _fail(job: Job, error: BaseException) -> None:
    if job.timer is not None:
        job.timer.cancel()
    if not job.reply.done():
        job.reply.set_exception(error)


__all__ = ["DeadlinePassed", "Job", "Reply", "WorkerEnded", "WorkerPool"]
