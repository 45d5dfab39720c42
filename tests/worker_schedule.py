"""Orders the tests, in one process and on many workers (a plugin of pytest).

The tests of a module stay together on one worker, since they share a server. Of the conformance
table only those of a column do: each takes a minute, and the columns run side by side. Modules that
start whole servers take long, so they come before those that test a room of the package by itself.
Two minutes of one module come first, so that no worker has only them left in the end. Tests marked
`alone` come last, when all other workers have ended.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

PACKAGE = Path(__file__).parents[1] / "era_kernels"
LONGEST = "tests/sandbox/test_attacks.py"
ALONE = "alone"
COLUMN = re.compile(r".*\btest_every_language\.py::test_row\[[^-\]]+")  # of the conformance table
# The scheduler learns only the names of the tests; each worker writes here which are `alone`.
ALONE_FILES = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    if getattr(config.option, "dist", "no") != "no" and not hasattr(config, "workerinput"):
        folder = Path(tempfile.mkdtemp(prefix="era-tests-"))
        config.stash[ALONE_FILES] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder))
        for argument in config.args:  # before workers start, of which each would fail
            if not (config.invocation_params.dir / argument.split("::")[0]).exists():
                raise pytest.UsageError(f"file or directory not found: {argument}")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    node.workerinput["alone_file"] = str(node.config.stash[ALONE_FILES] / node.gateway.id)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: Any, items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker(ALONE) is not None)
    if hasattr(config, "workerinput"):
        alone = [item.nodeid for item in items if item.get_closest_marker(ALONE)]
        Path(config.workerinput["alone_file"]).write_text("\0".join(alone), "utf-8")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return AloneLast(config, log)


class AloneLast(LoadScopeScheduling):
    """Gives modules to all workers; the last worker runs the tests marked `alone`."""

    alone: frozenset[str] = frozenset()

    def _split_scope(self, nodeid: str) -> str:
        if nodeid in self.alone:
            return ALONE
        column = COLUMN.match(nodeid)
        return column[0] if column else nodeid.split("::")[0]

    def schedule(self) -> None:
        if self.collection is None and self._check_nodes_have_same_collection():
            alone_file = self.config.stash[ALONE_FILES] / self.nodes[0].gateway.id
            self.alone = frozenset(alone_file.read_text("utf-8").split("\0"))
            self.collection = next(iter(self.registered_collections.values()))
            units: dict[str, dict[str, bool]] = {}
            for nodeid in self.collection:
                units.setdefault(self._split_scope(nodeid), {})[nodeid] = False
            self.workqueue.update(sorted(units.items(), key=_sort_key))
        if self.collection is not None:
            for node in self.nodes:
                self._reschedule(node)

    def remove_node(self, node: WorkerController) -> str | None:
        units = self.assigned_work.pop(node)
        left = [(unit, test) for unit in units.values() for test, done in unit.items() if not done]
        crashed = None
        if left:
            unit, crashed = left[0]
            unit[crashed] = True  # it has failed, and is not run again
            self.workqueue.update({scope: u for scope, u in units.items() if not all(u.values())})
        for other in self.nodes:
            self._reschedule(other)
        return crashed

    def _reschedule(self, node: WorkerController) -> None:
        if node.shutting_down:
            return
        if ALONE in self.workqueue:
            self.workqueue.move_to_end(ALONE)  # what a crashed worker left comes first
        # A worker runs its last test when it knows what comes next, or that nothing does.
        while self.workqueue and self._pending_of(self.assigned_work[node]) < 2:
            if next(iter(self.workqueue)) == ALONE and len(self.nodes) > 1:
                break
            self._assign_work_unit(node)
        if not self.workqueue or (
            next(iter(self.workqueue)) == ALONE
            and any(not other.shutting_down for other in self.nodes if other is not node)
        ):
            node.shutdown()


def _sort_key(unit: tuple[str, dict[str, bool]]) -> tuple[bool, bool, bool, int]:
    """Returns the sort key of a module: by its kind, then the one with the most tests first."""
    scope, tests = unit
    room = scope.split("/")[1] if scope.count("/") > 1 else ""
    is_of_a_room = (PACKAGE / room).is_dir() and room != ""
    return scope == ALONE, scope != LONGEST, is_of_a_room, -len(tests)
