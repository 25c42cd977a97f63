"""A plug-in of pytest that tells a grader outside the sandbox what became of each test.

It is copied into the sandbox and loaded before any code of the repository. It reads its orders from
descriptor 4 and speaks on descriptor 3, which only ever grows: what was said cannot be taken back.
Each line starts with a word from the orders, which code that comes later has not seen. It keeps to
Python 3.6, as images of old repositories have no other.

Lines: `hello`, `altered NAMES`, `test ID STATUS`, `alone ID STATUS LINE NAMES`, `exit ID STATUS`,
`batch STATUS`, `done CODE`.
"""

import gc
import json
import operator
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

_WATCHED = ("pytest", "_pytest", "pluggy", "unittest", "doctest")
_STATUSES = ("PASSED", "XFAILED", "SKIPPED", "FAILED", "ERROR")
_MAX_NAMES = 20
_KINDS = (type, type(len), type(lambda: 0), classmethod, staticmethod, property)
_Hook = TypeVar("_Hook", bound=Callable[..., Any])


def _orders() -> Any:
    chunks = []
    while True:
        chunk = os.read(4, 1 << 16)
        if not chunk:
            break
        chunks.append(chunk)
    os.close(4)
    return json.loads(b"".join(chunks).decode())


class Watched:
    """What the test runner is made of, as it was before any code of the repository ran."""

    def __init__(self) -> None:
        self.tables: Any = []
        self.functions: Any = []
        self.same: Any = (operator.is_, all, map)
        import doctest
        import unittest.mock

        seen: Any = set()
        for name, module in sorted(sys.modules.items()):
            if name.partition(".")[0] in _WATCHED and hasattr(module, "__dict__"):
                self._take(name, vars(module), seen)
        self._take("builtins", vars(sys.modules["builtins"]), seen)
        self.codes = [function.__code__ for _, function in self.functions]
        self.defaults = [function.__defaults__ for _, function in self.functions]
        self.bare = [function for _, function in self.functions]
        self.trace = (sys.gettrace(), sys.getprofile())
        del doctest, unittest

    def _take(self, name: str, names: Any, seen: Any) -> None:
        chosen = [(k, v) for k, v in list(names.items()) if isinstance(v, _KINDS)]
        self.tables.append((name, names, [k for k, _ in chosen], [v for _, v in chosen]))
        for key, value in chosen:
            raw = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            if id(raw) in seen:
                continue
            seen.add(id(raw))
            if isinstance(raw, type(_orders)):
                self.functions.append((name + "." + key, raw))
            elif isinstance(value, type) and value.__module__.partition(".")[0] in _WATCHED:
                self._take(name + "." + key, value.__dict__, seen)

    def altered(self) -> Any:
        """The names of what is no longer the same."""
        same, every, each = self.same
        found: Any = []
        for name, names, keys, values in self.tables:
            if not every(each(same, each(names.get, keys), values)):
                moved = [k for n, k in enumerate(keys) if names.get(k) is not values[n]]
                found += [name + "." + k for k in moved if not _is_legacy(names.get(k))]
        for kept, part in ((self.codes, "__code__"), (self.defaults, "__defaults__")):
            if not every(each(same, each(operator.attrgetter(part), self.bare), kept)):
                for number, (name, function) in enumerate(self.functions):
                    if getattr(function, part) is not kept[number]:
                        found.append(name)
        if (sys.gettrace(), sys.getprofile()) != self.trace:
            found.append("sys.settrace")
        return found


def _is_legacy(value: Any) -> bool:
    """Whether pytest itself put an old name back, as it does before the first test."""
    legacy = vars(sys.modules.get("_pytest.legacypath", os))
    return any(value is own for own in legacy.values())


def _foreign(config: Any, known: Any) -> Any:
    """Plug-ins that neither pytest, nor the settings, nor a conftest brought."""
    found = []
    for plugin in config.pluginmanager.get_plugins():
        name = getattr(plugin, "__name__", "") or type(plugin).__module__
        file = os.path.basename(getattr(plugin, "__file__", "") or "")
        home = type(plugin).__module__.partition(".")[0]
        ours = file == "conftest.py" or home in _WATCHED or name.partition(".")[0] in _WATCHED
        if id(plugin) not in known and not ours:
            found.append("plugin." + name)
    return found


def _shadowed(item: Any) -> Any:
    """Methods of a test that were replaced on its own instance."""
    found = []
    for owner in (item, getattr(item, "_testcase", None), getattr(item, "instance", None)):
        kind = type(owner)
        for name in list(getattr(owner, "__dict__", ())):
            runner = name in ("runtest", "setup", "teardown", "repr_failure", "run", "fail")
            if (runner or name.startswith("assert")) and hasattr(kind, name):
                found.append("self." + name)
    return found


def _line(item: Any, call: Any) -> int:
    """The last line of the test's own file that an exception went through."""
    place = str(getattr(item, "path", None) or item.fspath)
    trace, line = call.excinfo.value.__traceback__, 0
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == place:
            line = trace.tb_lineno
        trace = trace.tb_next
    return line


class Witness:
    def __init__(self) -> None:
        orders = _orders()
        self.word, self.alone, self.rest = orders["word"], orders["alone"], orders["rest"]
        self.batch, self.left = set(orders["batch"]), set(orders["left"])
        self.checked = set(orders["checked"])
        self.stream = os.dup(3)
        os.close(3)
        self.worst: Any = {}
        self.line = 0
        self.shadows: Any = []
        self.forked = False
        self.watched: Any = None
        self.known: Any = ()
        self.write, self.dumps, self.fork = os.write, json.dumps, os.fork
        self.leave, self.wait = os._exit, os.waitpid
        self.say("hello")

    def say(self, *parts: Any) -> None:
        text = " ".join([self.word, *(self.dumps(part) for part in parts)])
        self.write(self.stream, ("\n" + text + "\n").encode())

    def begin(self, config: Any) -> None:
        self.known = {id(plugin) for plugin in config.pluginmanager.get_plugins()}
        self.watched = Watched()

    def altered(self, config: Any) -> Any:
        found = self.watched.altered() + _foreign(config, self.known) + self.shadows
        return sorted(set(found))[:_MAX_NAMES]

    def report(self, nodeid: str, status: str) -> None:
        old = self.worst.get(nodeid, "PASSED")
        self.worst[nodeid] = max(old, status, key=_STATUSES.index)

    def finish(self, nodeid: str) -> None:
        if not self.forked and nodeid in self.worst:
            self.say("test", nodeid, self.worst.pop(nodeid))

    def ask(self, item: Any, name: str) -> None:
        """Run one test in a process of its own."""

        def run() -> None:
            self.forked, self.worst, self.line = True, {}, 0
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
            status = self.worst.get(item.nodeid, "ERROR")
            # Looking at all of it costs more than most tests do: a sample is looked at.
            found = self.altered(item.config) if name in self.checked else self.shadows
            self.say("alone", name, status, self.line, found)

        self.say("exit", name, self.apart(run))

    def run_batch(self, items: Any) -> None:
        """Run tests one after the other, in one process of their own."""
        for number, item in enumerate(items):
            following = items[number + 1] if number + 1 < len(items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        self.say("altered", self.altered(items[0].config))

    def apart(self, run: Any) -> Any:
        sys.stdout.flush()
        sys.stderr.flush()
        child = self.fork()
        if child == 0:
            code = 70
            try:
                run()
                code = 0
            finally:
                self.leave(code)
        return self.wait(child, 0)[1]


_witness = Witness()


def _hook(**options: Any) -> Callable[[_Hook], _Hook]:
    import pytest

    made: Callable[[_Hook], _Hook] = pytest.hookimpl(**options)
    return made


@_hook(hookwrapper=True, tryfirst=True)
def pytest_load_initial_conftests(early_config: Any) -> Any:
    _witness.begin(early_config)
    yield


@_hook(tryfirst=True)
def pytest_runtestloop(session: Any) -> Any:
    _witness.say("altered", _witness.altered(session.config))
    if hasattr(gc, "freeze"):
        gc.freeze()  # a collection in a child would copy all memory
    batch: Any = []
    rest: Any = []
    for item in session.items:
        name, function = item.nodeid, item.nodeid.split("[")[0]
        if name not in _witness.alone:  # SWE-bench cuts ids at a space
            name = name.split()[0]
        for _ in range(_witness.alone.get(name, 0)):
            _witness.ask(item, name)
        if name in _witness.alone or function in _witness.left:
            continue
        (batch if function in _witness.batch else rest).append(item)
    if batch:
        _witness.say("batch", _witness.apart(lambda: _witness.run_batch(batch)))
    session.items[:] = rest
    if _witness.rest:
        return None
    _witness.say("done", 0)
    _witness.leave(0)  # nobody reads what pytest would print now


@_hook(hookwrapper=True)
def pytest_runtest_makereport(item: Any, call: Any) -> Any:
    yield
    if call.when == "call":
        _witness.shadows = _shadowed(item)
        if call.excinfo is not None:
            _witness.line = _line(item, call)


@_hook(tryfirst=True)
def pytest_runtest_logreport(report: Any) -> None:
    status = "PASSED"
    if report.skipped:
        status = "XFAILED" if hasattr(report, "wasxfail") else "SKIPPED"
    elif report.failed:
        status = "FAILED" if report.when == "call" else "ERROR"
    _witness.report(report.nodeid, status)


def pytest_runtest_logfinish(nodeid: str) -> None:
    _witness.finish(nodeid)


def pytest_collectreport(report: Any) -> None:
    if report.failed:
        _witness.report(report.nodeid, "ERROR")
        _witness.finish(report.nodeid)


@_hook(trylast=True)
def pytest_sessionfinish(session: Any, exitstatus: Any) -> None:
    _witness.say("altered", _witness.altered(session.config))
    _witness.say("done", int(exitstatus))


def _go_unseen() -> None:
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != here]
    paths = os.environ.pop("PYTHONPATH", "").split(os.pathsep)
    if paths[1:]:
        os.environ["PYTHONPATH"] = os.pathsep.join(paths[1:])


_go_unseen()
