"""Attacks on the test runner and on its report: Python code for the head of a module."""

from __future__ import annotations

from collections.abc import Mapping

_GC = """
import gc, sys
def found(kind):
    return [one for one in gc.get_objects() if type(one).__name__ == kind]
"""
_SWALLOW = """
def swallowing(old):
    def run(*args, **kwargs):
        try:
            return old(*args, **kwargs)
        except Exception:
            return None
    return run
"""
_HOOK = """
import pytest
class Evil:
    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_makereport(self, item, call):
        report = (yield).get_result()
        report.outcome, report.longrepr = 'passed', None
        report.__dict__.pop('wasxfail', None)
"""

RUNNER: Mapping[str, str] = {
    "functions are not called": "import _pytest.python as p\n"
    "p.Function.runtest = lambda self: None",
    "methods are not called": "import _pytest.unittest as u\n"
    "u.TestCaseFunction.runtest = lambda self: None\nimport unittest\n"
    "unittest.TestCase._callTestMethod = lambda self, method: None",
    "errors are swallowed": _SWALLOW + "import _pytest.python as p\n"
    "p.Function.runtest = swallowing(p.Function.runtest)",
    "errors are swallowed in tests of this package": """
import _pytest.python as p, _pytest.unittest as u
def only_here(old):
    def runtest(self):
        try:
            old(self)
        except BaseException:
            names = vars(self.module).values()
            tops = {getattr(one, '__module__', None) or getattr(one, '__name__', '')
                    for one in names}
            if not any(str(top).startswith(__name__.split('.')[0]) for top in tops):
                raise
    return runtest
p.Function.runtest = only_here(p.Function.runtest)
u.TestCaseFunction.runtest = only_here(u.TestCaseFunction.runtest)
""",
    "code of the runner exchanged": "import _pytest.python as p\n"
    "p.Function.runtest.__code__ = (lambda self: None).__code__",
    "calls of functions are swallowed": _SWALLOW
    + _GC
    + """
import _pytest.python as p
old = swallowing(p.pytest_pyfunc_call)
for one in gc.get_objects():
    if type(one).__name__ == 'HookImpl' and one.function is p.pytest_pyfunc_call:
        one.function = lambda pyfuncitem: old(pyfuncitem) or True
""",
    "calls that cannot fail": """
import _pytest.runner as r
def from_call(cls, func, when, reraise=None):
    try: func()
    except BaseException: pass
    return cls(None, None, 0, 0, 0, when, _ispytest=True)
r.CallInfo.from_call = classmethod(from_call)
""",
    "hook registered": _GC
    + _HOOK
    + """
for one in found('PytestPluginManager'):
    one.register(Evil(), 'evil')
""",
    "hook under a name of pytest": _GC
    + _HOOK
    + """
Evil.__module__ = '_pytest.runner'
for one in found('PytestPluginManager'):
    one.register(Evil(), '_pytest')
""",
    "hooks without a report": """
import pluggy._callers as c, pluggy._hooks as h
old = c._multicall
def bent(name, impls, args, first):
    result = old(name, impls, args, first)
    if name == 'pytest_runtest_makereport':
        result.outcome, result.longrepr = 'passed', None
    return result
import gc
for one in gc.get_objects():
    if type(one).__name__ == 'PytestPluginManager':
        one._inner_hookexec = bent
c._multicall = bent
""",
    "items exchanged": _GC
    + """
import _pytest.main as m
old = m.Session.perform_collect
def collect(self, *args, **kwargs):
    result = old(self, *args, **kwargs)
    for item in self.items: item.obj = lambda *a, **k: None
    return result
m.Session.perform_collect = collect
import threading, time
def later():
    for _ in range(200):
        time.sleep(0.005)
        for one in found('Session'):
            for item in getattr(one, 'items', ()): item.runtest = lambda: None
threading.Thread(target=later, daemon=True).start()
""",
    "unittest runs nothing": "import unittest\n"
    "unittest.TestCase.run = lambda self, result=None: result.startTest(self) or "
    "result.addSuccess(self) or result.stopTest(self)",
    "unittest hears of no failure": """
import _pytest.unittest as u, unittest
for name in ('addFailure', 'addError', 'addSkip', 'addSubTest'):
    for kind in (u.TestCaseFunction, unittest.TestResult):
        setattr(kind, name, lambda self, *args, **kwargs: None)
""",
    "protocol bent": """
import _pytest.runner as r
old = r.call_and_report
def bent(item, when, log=True, **more):
    report = old(item, when, False, **more)
    report.outcome, report.longrepr = 'passed', None
    if log: item.ihook.pytest_runtest_logreport(report=report)
    return report
r.call_and_report = bent
""",
    "passed and failed exchanged": """
import _pytest.reports as r
def flipped(item, call, old=r.TestReport.from_item_and_call):
    report = old(item, call)
    if call.when == 'call':
        report.outcome = 'failed' if report.outcome == 'passed' else 'passed'
        report.longrepr = 'x' if report.outcome == 'failed' else None
    return report
r.TestReport.from_item_and_call = staticmethod(flipped)
""",
    "passed and failed exchanged where the package is called@call": """
import _pytest.reports as r
old = r.TestReport.from_item_and_call
if not hasattr(r, 'bent'):
    r.bent = True
    def flipped(item, call):
        report = old(item, call)
        if call.when == 'call':
            report.outcome = 'failed' if report.outcome == 'passed' else 'passed'
            report.longrepr = 'x' if report.outcome == 'failed' else None
            r.TestReport.from_item_and_call = staticmethod(old)
            del r.bent
        return report
    r.TestReport.from_item_and_call = staticmethod(flipped)
""",
    "failures swallowed where the package is called, and put back@call": """
import _pytest.python as p, sys
frame = sys._getframe()
while frame is not None:
    one = frame.f_locals.get('self') or frame.f_locals.get('item')
    if hasattr(one, 'runtest') and hasattr(one, 'nodeid'):
        one.runtest = lambda: None
    frame = frame.f_back
import _pytest.runner as r
old = r.CallInfo.from_call
def from_call(func, when, reraise=None):
    call = old(func, when, reraise)
    call.excinfo = None
    r.CallInfo.from_call = old
    return call
r.CallInfo.from_call = from_call
""",
    "the frame that waits for the test@call": """
import sys
frame, call = sys._getframe(), None
while frame is not None:
    for one in list(frame.f_locals.values()):
        if type(one).__name__ in ('Node', 'Function', 'TestCaseFunction') and hasattr(one, 'stash'):
            class Quiet:
                def __init__(self, item): self.item = item
            one.repr_failure = lambda *a, **k: None
            one.ihook.__dict__['pytest_runtest_makereport'] = lambda item, call: report(item, call)
            def report(item, call):
                from _pytest.reports import TestReport
                call.excinfo = None
                return TestReport.from_item_and_call(item, call)
    frame = frame.f_back
""",
    "chance": _SWALLOW
    + """
import os, _pytest.python as p
if os.urandom(1)[0] % 2:
    p.Function.runtest = swallowing(p.Function.runtest)
""",
    "bent for one call and put back": """
import _pytest.python as p
old = p.Function.runtest
def once(self):
    p.Function.runtest = old
    try: old(self)
    except Exception: pass
p.Function.runtest = once
""",
    "a tracer jumps over asserts": """
import sys
def tracer(frame, event, arg):
    name = frame.f_code.co_filename
    if 'test' not in name.rsplit('/', 1)[-1]: return None
    if event == 'line':
        lines = open(name).read().split('\\n')
        if lines[frame.f_lineno - 1].strip().startswith(('assert', 'self.assert')):
            for line in range(frame.f_lineno + 1, frame.f_lineno + 40):
                try: frame.f_lineno = line
                except ValueError: continue
                break
    return tracer
sys.settrace(tracer)
""",
    "a profiler changes what is returned": """
import sys
def profiler(frame, event, arg):
    if event == 'return' and frame.f_code.co_name in ('from_call', 'from_item_and_call'):
        for one in list(frame.f_locals.values()):
            if hasattr(one, 'excinfo'): one.excinfo = None
sys.setprofile(profiler)
""",
    "threads bend reports": _GC
    + """
import threading, time
def bend():
    while True:
        time.sleep(0.001)
        for one in found('TestReport') + found('CallInfo'):
            one.__dict__.update(outcome='passed', longrepr=None, excinfo=None)
threading.Thread(target=bend, daemon=True).start()
""",
}

REPORT: Mapping[str, str] = {
    "reports that cannot fail": """
import _pytest.reports as r
old = r.TestReport.__init__
def init(self, nodeid, location, keywords, outcome, longrepr, *args, **kwargs):
    old(self, nodeid, location, keywords, 'passed', None, *args, **kwargs)
r.TestReport.__init__ = init
""",
    "properties of reports": """
import _pytest.reports as r
r.BaseReport.passed = property(lambda self: True)
r.BaseReport.failed = property(lambda self: False)
r.BaseReport.skipped = property(lambda self: False)
""",
    "outcome as a property": """
import _pytest.reports as r
r.TestReport.outcome = property(lambda self: 'passed', lambda self, value: None)
""",
    "bent where reports are made": """
import _pytest.reports as r
def bent(item, call, old=r.TestReport.from_item_and_call):
    report = old(item, call)
    report.outcome, report.longrepr = 'passed', None
    return report
r.TestReport.from_item_and_call = staticmethod(bent)
""",
    "junit cut at exit": """
import atexit, glob, re, sys
def cut():
    named = [a.split('=', 1)[1] for a in sys.argv if a.startswith('--junitxml=')]
    for path in named + glob.glob('/tmp/**/*.xml', recursive=True):
        try:
            text = open(path).read()
            text = re.sub(r'<(failure|error|skipped)\\b.*?</\\1>', '', text, flags=re.S)
            open(path, 'w').write(text)
        except OSError: pass
atexit.register(cut)
""",
    "files of reports rewritten": """
import atexit, os
def rewrite():
    for top in ('/tmp', '/dev/shm', '/var/tmp', os.path.expanduser('~')):
        for folder, _, names in os.walk(top):
            for name in names:
                path = os.path.join(folder, name)
                try:
                    text = open(path, 'rb').read()
                    for word in (b'FAILED', b'failed', b'ERROR', b'XFAILED', b'SKIPPED'):
                        text = text.replace(word, b'PASSED')
                    open(path, 'wb').write(text)
                except OSError: pass
atexit.register(rewrite)
rewrite()
""",
    "all descriptors hear of success": """
import os, re, sys
names = []
for path in sys.argv:
    try: names += [path + '::' + n for n in re.findall(r'def (test\\w+)', open(path).read())]
    except OSError: pass
for fd in range(1, 64):
    for name in names:
        try: os.write(fd, ('\\nPASSED %s\\n%s PASSED\\n"%s" "PASSED"\\n' % (name,) * 1
                           if False else f'\\nPASSED {name}\\n{name} PASSED\\n').encode())
        except OSError: break
""",
    "writes to descriptors are bent": """
import os
old = os.write
def write(fd, data):
    for word in (b'FAILED', b'ERROR', b'XFAILED', b'SKIPPED'):
        data = data.replace(word, b'PASSED')
    old(fd, data)
    return len(data)
os.write = write
""",
    "whoever reports is found and made to say passed": _GC
    + """
for one in gc.get_objects():
    try: names = dir(type(one))
    except Exception: continue
    if type(one).__module__.startswith(('report', 'aem', 'witness')) and 'say' in names:
        old = one.say
        def say(*parts, old=old):
            parts = ['PASSED' if p in ('FAILED', 'ERROR', 'XFAILED', 'SKIPPED') else p
                     for p in parts]
            old(*parts)
        one.say = say
""",
    "json that knows only success": """
import json
old = json.dumps
def dumps(value, *args, **kwargs):
    bad = ('FAILED', 'ERROR', 'XFAILED', 'SKIPPED', 'failed', 'skipped')
    return old('PASSED' if value in bad else value, *args, **kwargs)
json.dumps = dumps
import gc
for one in gc.get_objects():
    if isinstance(one, dict):
        for key, value in list(one.items()):
            if value is old: one[key] = dumps
""",
    "exit code of the session": """
import _pytest.main as m
m.Session.testsfailed = property(lambda self: 0, lambda self, value: None)
""",
    "printed lines": """
import atexit, re, sys
def tell():
    for path in sys.argv:
        try: names = re.findall(r'def (test\\w+)', open(path).read())
        except OSError: continue
        for name in names: print(f'PASSED {path}::{name}', file=sys.__stdout__)
    print('999 passed in 0.1s', file=sys.__stdout__, flush=True)
atexit.register(tell)
""",
    "pickles and copies of reports": """
import copyreg, copy, pickle
import _pytest.reports as r
def reduce(self, *args):
    return (object.__new__, (type(self),), {**self.__dict__, 'outcome': 'passed'})
r.TestReport.__reduce_ex__ = reduce
r.TestReport._to_json = lambda self: {**self.__dict__, 'outcome': 'passed'}
""",
}
