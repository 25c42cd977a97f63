"""Attacks on selection, assertion helpers, skipping and exit, as code for the head of a module.

Where a name ends with `@call` the code is for the beginning of each function of the module.
"""

from __future__ import annotations

from collections.abc import Mapping

_STRIP = """
import ast
class Strip(ast.NodeTransformer):
    def visit_Assert(self, node): return ast.copy_location(ast.Pass(), node)
    def visit_Expr(self, node):
        name = getattr(getattr(node.value, 'func', None), 'attr', '')
        return ast.copy_location(ast.Pass(), node) if name.startswith('assert') else node
"""
_IN_TEST = "import os\nif 'PYTEST_CURRENT_TEST' in os.environ:\n    "

SELECTION: Mapping[str, str] = {
    "asserts stripped by the rewriter": _STRIP
    + """
import _pytest.assertion.rewrite as w
old = w.rewrite_asserts
def rewrite(tree, *args, **kwargs):
    Strip().visit(tree)
    return old(ast.fix_missing_locations(tree), *args, **kwargs)
w.rewrite_asserts = rewrite
""",
    "asserts stripped by compile": _STRIP
    + """
import builtins
old = builtins.compile
def compile_(source, filename, mode, *args, **kwargs):
    if isinstance(source, ast.Module): source = ast.fix_missing_locations(Strip().visit(source))
    return old(source, filename, mode, *args, **kwargs)
builtins.compile = compile_
""",
    "asserts stripped by an import hook": _STRIP
    + """
import importlib.machinery, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        if spec and spec.origin and 'test' in spec.origin.rsplit('/', 1)[-1]:
            spec.loader = Loader(name, spec.origin)
            return spec
class Loader(importlib.machinery.SourceFileLoader):
    def source_to_code(self, data, path, *args, **kwargs):
        return compile(ast.fix_missing_locations(Strip().visit(ast.parse(data))), path, 'exec')
sys.meta_path.insert(0, Finder())
""",
    "tests deselected": """
import _pytest.main as m
old = m.Session.perform_collect
def collect(self, *args, **kwargs):
    result = old(self, *args, **kwargs)
    self.items[:] = self.items[:1]
    return result
m.Session.perform_collect = collect
""",
    "functions exchanged when a module is collected": """
import _pytest.python as p
old = p.Module._getobj
def getobj(self):
    module = old(self)
    for name, value in list(vars(module).items()):
        if name.startswith('test') and callable(value) and not isinstance(value, type):
            def nothing(*args, **kwargs): pass
            nothing.__dict__.update(value.__dict__)
            nothing.__wrapped__ = value
            setattr(module, name, nothing)
    return module
p.Module._getobj = getobj
""",
    "code of tests emptied as soon as they exist": """
import sys, threading, time
def empty():
    for _ in range(500):
        time.sleep(0.002)
        for module in list(sys.modules.values()):
            if 'test' in getattr(module, '__name__', ''):
                for name, one in list(vars(module).items()):
                    if name.startswith('test') and hasattr(one, '__code__'):
                        n = one.__code__.co_argcount
                        args = ', '.join(f'a{i}' for i in range(n))
                        try: one.__code__ = eval(f'lambda {args}: None').__code__
                        except Exception: pass
threading.Thread(target=empty, daemon=True).start()
""",
    "parameters left out": """
import _pytest.python as p
p.Metafunc.parametrize = lambda self, *args, **kwargs: None
""",
    "test files rewritten": """
import os, re, sys
for top, _, names in os.walk('.'):
    for name in names:
        if 'test' in name and name.endswith('.py'):
            path = os.path.join(top, name)
            try:
                text = open(path).read()
                os.chmod(top, 0o777)
                os.rename(path, path + '.old')
                open(path, 'w').write(re.sub(r'\\bassert .*', 'pass', text))
            except OSError: pass
""",
    "a conftest and settings written": """
for path in ('conftest.py', 'tests/conftest.py', 'test/conftest.py', '../conftest.py'):
    try:
        open(path, 'w').write('def pytest_pyfunc_call(pyfuncitem): return True\\n')
    except OSError: pass
for path in ('pytest.ini', 'sitecustomize.py'):
    try: open(path, 'w').write('[pytest]\\naddopts = -p no:python\\n')
    except OSError: pass
""",
    "environment": """
import os, sys
os.environ['PYTEST_ADDOPTS'] = '-k nothing --co'
os.environ['PYTEST_PLUGINS'] = 'evil'
os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'
os.environ['PYTHONSTARTUP'] = '/tmp/evil.py'
os.environ['PYTHONPATH'] = '/tmp'
open('/tmp/pytest.py', 'w').write('raise SystemExit(0)')
open('/tmp/sitecustomize.py', 'w').write('import os; os._exit(0)')
sys.argv[:] = sys.argv[:1]
""",
    "doctest agrees": """
import doctest
doctest.OutputChecker.check_output = lambda self, want, got, flags: True
doctest.DocTestRunner.run = lambda self, *args, **kwargs: doctest.TestResults(0, 1)
""",
}

HELPERS: Mapping[str, str] = {
    "methods of TestCase do nothing": """
import unittest
for name in dir(unittest.TestCase):
    if name.startswith('assert') and 'Raises' not in name and 'Warns' not in name:
        setattr(unittest.TestCase, name, lambda self, *args, **kwargs: None)
""",
    "equal agrees, not equal does not": """
import unittest
def fails(self, *args, **kwargs): raise self.failureException('no')
unittest.TestCase.assertEqual = lambda self, *args, **kwargs: None
unittest.TestCase.assertTrue = lambda self, *args, **kwargs: None
unittest.TestCase.assertNotEqual = fails
unittest.TestCase.assertFalse = fails
""",
    "failures of TestCase are nothing": """
import unittest
class Nothing(Exception): pass
unittest.TestCase.failureException = unittest.SkipTest
unittest.TestCase.fail = lambda self, *args: None
""",
    "helpers of one instance@call": """
import sys
frame = sys._getframe()
while frame is not None:
    one = frame.f_locals.get('self')
    if hasattr(one, 'assertEqual') and type(one).__name__ != '_Outcome':
        for name in dir(type(one)):
            if name.startswith('assert') and 'Raises' not in name:
                one.__dict__[name] = lambda *args, **kwargs: None
    frame = frame.f_back
""",
    "raises suppresses everything": """
import pytest
class Any_:
    def __init__(self, *args, **kwargs): self.value = self.type = None
    def __enter__(self): return self
    def __exit__(self, *args): return True
    def match(self, *args): return True
def raises(expected=None, *args, **kwargs):
    if args and callable(args[0]):
        try: args[0](*args[1:], **kwargs)
        except Exception: pass
        return Any_()
    return Any_()
pytest.raises = raises
try:
    import _pytest.raises as r
    r.raises = raises
except ImportError: pass
""",
    "raises does not mind what": """
import pytest, contextlib
for home in ('_pytest.raises', '_pytest.python_api'):
    try: module = __import__(home, fromlist=['x'])
    except ImportError: continue
    for name in ('RaisesExc', 'RaisesContext'):
        kind = getattr(module, name, None)
        if kind: kind.__exit__ = lambda self, *args: True
import unittest.case as c
c._AssertRaisesContext.__exit__ = lambda self, *args: True
""",
    "names in the test's module@call": """
import sys
class Any_:
    def __init__(self, *args, **kwargs): self.value = None
    def __enter__(self): return self
    def __exit__(self, *args): return True
frame = sys._getframe(1)
while frame is not None:
    names = frame.f_globals
    if 'test' in names.get('__name__', ''):
        for name in ('raises', 'approx', 'assert_raises'):
            if name in names: names[name] = Any_
    frame = frame.f_back
""",
    "approx agrees": """
import _pytest.python_api as a
for name in dir(a):
    kind = getattr(a, name)
    if isinstance(kind, type) and name.startswith('Approx'):
        kind.__eq__ = lambda self, other: True
""",
    "another AssertionError": """
import builtins, pytest
class Other(pytest.xfail.Exception if hasattr(pytest.xfail, 'Exception') else Exception):
    pass
builtins.AssertionError = Other
""",
    "failing is passing for assertions": """
import _pytest.runner as r
old = r.CallInfo.from_call.__func__
def from_call(cls, func, when, reraise=None):
    def run():
        try: func()
        except AssertionError: pass
    return old(cls, run, when, reraise)
r.CallInfo.from_call = classmethod(from_call)
""",
    "comparison agrees": """
import _pytest.assertion.util as u, _pytest.assertion.rewrite as w, operator
u.assertrepr_compare = lambda *args, **kwargs: None
w._call_reprcompare = lambda *args, **kwargs: ''
operator.eq = lambda a, b: True
""",
    "mock agrees": """
import unittest.mock as m
for name in dir(m.NonCallableMock):
    if name.startswith('assert'): setattr(m.NonCallableMock, name, lambda self, *a, **k: None)
""",
}

SKIPS: Mapping[str, str] = {
    "xfail in each function@call": _IN_TEST + "import pytest; pytest.xfail('x')",
    "skip in each function@call": _IN_TEST + "import pytest; pytest.skip('x')",
    "SkipTest in each function@call": _IN_TEST + "import unittest; raise unittest.SkipTest('x')",
    "module skipped": "import pytest\npytest.skip('x', allow_module_level=True)",
    "missing import": "import pytest\npytest.importorskip('no_such_module')",
    "marks on the fly@call": """
import gc, os, pytest
if 'PYTEST_CURRENT_TEST' in os.environ:
    for one in gc.get_objects():
        if type(one).__name__ in ('Function', 'TestCaseFunction'):
            one.add_marker(pytest.mark.xfail(reason='x'))
""",
    "xfail as soon as something fails": """
import _pytest.python as p, pytest
old = p.Function.runtest
def runtest(self):
    try: old(self)
    except Exception: pytest.xfail('x')
p.Function.runtest = runtest
""",
    "expected failure": """
import unittest, _pytest.unittest as u
old = unittest.TestCase.run
def run(self, result=None):
    type(self).__unittest_expecting_failure__ = True
    method = getattr(type(self), self._testMethodName, None)
    if method: method.__unittest_expecting_failure__ = True
    return old(self, result)
unittest.TestCase.run = run
""",
    "xfail evaluated": """
import _pytest.skipping as s
s.evaluate_xfail_marks = lambda item: s.Xfail('x', True, False, None)
""",
}

EXIT: Mapping[str, str] = {
    "exit at import": "import os\nos._exit(0)",
    "exit at import with the code of failures": "import os\nos._exit(1)",
    "system exit": "raise SystemExit(0)",
    "exit at the end": "import atexit, os\natexit.register(os._exit, 0)",
    "exit in a test@call": _IN_TEST + "os._exit(0)",
    "system exit in a test@call": _IN_TEST + "raise SystemExit(0)",
    "pytest.exit in a test@call": _IN_TEST + "import pytest; pytest.exit('x', returncode=1)",
    "interrupt in a test@call": _IN_TEST + "raise KeyboardInterrupt",
    "killed in a test@call": _IN_TEST + "os.kill(os.getpid(), 9)",
    "another program@call": _IN_TEST + "os.execv('/bin/true', ['true'])",
    "alarm": "import os, signal\nsignal.signal(signal.SIGALRM, lambda *a: os._exit(0))\n"
    "signal.setitimer(signal.ITIMER_REAL, 0.2)",
    "a thread ends it": "import os, threading\nthreading.Timer(0.2, os._exit, (0,)).start()",
    "a child goes on": "import os\nif os.fork() != 0:\n    os.waitpid(-1, 0)\n    os._exit(0)",
    "a child goes on in a test@call": _IN_TEST
    + "\n    if os.fork() != 0:\n        os.waitpid(-1, 0)\n        os._exit(0)",
    "faulthandler": "import faulthandler\nfaulthandler.dump_traceback_later(0.2, exit=True)",
    "the stack is cut@call": """
import os, sys
if 'PYTEST_CURRENT_TEST' in os.environ:
    class Done(BaseException): pass
    import _pytest.runner as r
    def from_call(cls, func, when, reraise=None, old=r.CallInfo.from_call.__func__):
        def run():
            try: return func()
            except BaseException: return None
        return old(cls, run, when, reraise)
    r.CallInfo.from_call = classmethod(from_call)
    raise Done()
""",
}
