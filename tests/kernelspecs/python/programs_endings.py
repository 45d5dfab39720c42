"""Programs that fail or end in unusual ways, which a session must tell as `python main.py` does.

Exceptions, exits, hooks, the end of the interpreter, signals, event loops, mocks, descriptors.
"""

from __future__ import annotations

from tests.kernelspecs.python.programs import split_programs

ENDINGS = split_programs(r"""
### frozen dataclass
from dataclasses import dataclass
@dataclass(frozen=True)
class E(Exception):
    k: str
raise E('a')

### frozen dataclass as a cause
from dataclasses import dataclass
@dataclass(frozen=True)
class E(Exception):
    k: str
try:
    raise E('a')
except E as e:
    raise ValueError('b') from e

### frozen dataclass as a context
from dataclasses import dataclass
@dataclass(frozen=True)
class E(Exception):
    k: str
try:
    raise E('a')
except E:
    1 / 0

### frozen dataclass in a group
from dataclasses import dataclass
@dataclass(frozen=True)
class E(Exception):
    k: str
raise ExceptionGroup('g', [E('a'), ValueError('b')])

### slots
class E(Exception):
    __slots__ = ('k',)
raise E('a')

### setattr raises
class E(Exception):
    def __setattr__(self, name, value):
        raise TypeError('read-only')
raise E('a')

### str exits
import sys
class E(Exception):
    def __str__(self):
        sys.exit(3)
raise E

### str interrupts
class E(Exception):
    def __str__(self):
        raise KeyboardInterrupt
raise E

### str is no text
class E(Exception):
    def __str__(self):
        return 5
raise E

### str prints
class E(Exception):
    def __str__(self):
        print('asked')
        return 'said'
raise E

### metaclass name
class M(type):
    @property
    def __name__(cls):
        raise ValueError('no')
class E(Exception, metaclass=M):
    pass
try:
    raise E('x')
except E:
    print('caught')

### args changed
e = ValueError('a')
e.args = ('b', 'c')
raise e

### KeyError of a long key
{}['k' * 1000]

### OSError with a file
open('/nowhere/at/all')

### UnicodeDecodeError
b'\xff'.decode()

### StopIteration
next(iter([]))

### GeneratorExit
raise GeneratorExit

### BaseException
raise BaseException('b')

### subclass of KeyboardInterrupt
class K(KeyboardInterrupt):
    pass
try:
    raise K('k')
except KeyboardInterrupt:
    print('caught')

### class raised
raise ValueError

### not an exception
raise 5

### its own cause
e = ValueError('e')
e.__cause__ = e
raise e

### long chain
def f(n):
    try:
        raise ValueError(n)
    finally:
        if n:
            f(n - 1)
f(5)

### deep recursion
def f():
    f()
try:
    f()
except RecursionError as e:
    print(e)

### exit beyond int
import sys
sys.exit(10**20)

### exit below int
import sys
sys.exit(-(10**20))

### exit of 64 bits
import sys
sys.exit(2**40 + 5)

### exit of -1
raise SystemExit(-1)

### exit float
import sys
sys.exit(2.0)

### exit bytes
import sys
sys.exit(b'x')

### exit list
import sys
sys.exit([1, 2])

### exit empty text
import sys
sys.exit('')

### exit surrogate
import sys
sys.exit('\ud800')

### exit two
raise SystemExit(1, 2)

### exit int subclass
class N(int):
    pass
raise SystemExit(N(4))

### exit code later
e = SystemExit(1)
e.code = 5
raise e

### exit code cannot be told
class C:
    def __str__(self):
        raise ValueError('no')
raise SystemExit(C())

### exit subclass
class E(SystemExit):
    pass
raise E(6)

### exit code property
class E(SystemExit):
    @property
    def code(self):
        return 9
raise E(1)

### exit in finally
try:
    1 / 0
finally:
    raise SystemExit(4)

### exit with context
try:
    1 / 0
except ZeroDivisionError:
    raise SystemExit('bad')

### exit in a group
raise BaseExceptionGroup('g', [SystemExit(3), ValueError('v')])

### excepthook fails
import sys
def hook(*args):
    1 / 0
sys.excepthook = hook
raise ValueError('x')

### excepthook exits
import sys
def hook(*args):
    sys.exit(5)
sys.excepthook = hook
raise ValueError('x')

### excepthook prints
import sys, traceback
def hook(kind, error, trace):
    print(kind.__name__, error, len(traceback.extract_tb(trace)))
sys.excepthook = hook
def f():
    raise ValueError('x')
f()

### no excepthook
import sys
del sys.excepthook
1 / 0

### stderr is None
import sys
sys.stderr = None
sys.exit('text')

### atexit
import atexit
atexit.register(print, 'bye')
print('end')

### atexit in reverse
import atexit
for n in range(3):
    atexit.register(print, n)
print('end')

### atexit after an error
import atexit
atexit.register(print, 'bye')
1 / 0

### atexit after an exit
import atexit, sys
atexit.register(print, 'bye')
sys.exit(3)

### atexit registers
import atexit
def f():
    atexit.register(print, 'more')
    print('first')
atexit.register(f)

### atexit fails
import atexit
@atexit.register
def f():
    1 / 0
atexit.register(print, 'other')

### atexit exits
import atexit, sys
atexit.register(print, 'other')
atexit.register(sys.exit, 7)

### atexit writes
import atexit, os, sys
def f():
    sys.stderr.write('err\n')
    os.write(1, b'raw\n')
    os.system('echo child')
atexit.register(f)

### weakref.finalize
import weakref
class A:
    pass
a = A()
f = weakref.finalize(a, print, 'final')
print('end')

### del at the end
class A:
    def __init__(self, name):
        self.name = name
    def __del__(self):
        print('del', self.name, helper())
def helper():
    return 'h'
a = A('a')
b = A('b')
print('end')

### del of a cycle
class A:
    def __del__(self):
        print('del')
a = A()
a.self = a
del a
print('end')

### del uses a module
import os
class A:
    def __del__(self):
        print(os.path.basename('/x/y'))
a = A()

### del after an error
class A:
    def __del__(self):
        print('del')
def f():
    a = A()
    1 / 0
f()

### generator closed
def g():
    try:
        yield 1
    finally:
        print('closed')
it = g()
next(it)
print('end')

### buffered file
import os
if os.path.exists('left.txt'):
    os.remove('left.txt')
f = open('left.txt', 'w')
f.write('data')
import atexit
atexit.register(lambda: print(os.path.getsize('left.txt')))

### logging at the end
import atexit, logging, logging.handlers
target = logging.StreamHandler()
memory = logging.handlers.MemoryHandler(10, target=target)
logging.getLogger().addHandler(memory)
logging.warning('kept until the end')

### queue listener
import atexit, logging, logging.handlers, queue
q = queue.Queue()
listener = logging.handlers.QueueListener(q, logging.StreamHandler())
listener.start()
atexit.register(listener.stop)
logging.getLogger().addHandler(logging.handlers.QueueHandler(q))
logging.warning('queued')

### pool at the end
from concurrent.futures import ThreadPoolExecutor
import time
pool = ThreadPoolExecutor(2)
pool.submit(lambda: (time.sleep(0.1), print('work')))
print('end')

### thread registers atexit
import atexit, threading, time
def f():
    time.sleep(0.1)
    atexit.register(print, 'from a thread')
threading.Thread(target=f).start()
print('end')

### daemon thread
import threading, time
threading.Thread(target=time.sleep, args=(30,), daemon=True).start()
print('end')

### temporary directory
import tempfile, os, atexit
d = tempfile.TemporaryDirectory()
atexit.register(lambda: print(os.path.isdir(d.name)))

### unflushed stdout
import sys
sys.stdout.write('no newline')

### printf
import ctypes
ctypes.CDLL(None).printf(b'from C')
print(end='')

### puts
import ctypes
ctypes.CDLL(None).puts(b'from C')

### exec
import os, sys
sys.stdout.flush()
os.execv('/bin/sh', ['sh', '-c', 'echo new; exit 7'])

### exec in PATH
import os
os.execlp('sh', 'sh', '-c', 'echo new >&2; exit 3')

### exec with an environment
import os
os.execvpe('sh', ['sh', '-c', 'echo $NAME'], {'NAME': 'n', 'PATH': '/bin:/usr/bin'})

### exec large
import os
os.execv('/bin/sh', ['sh', '-c', 'head -c 3000000 /dev/zero | tr "\\0" x'])

### exec of nothing
import os
try:
    os.execv('/nowhere', ['x'])
except OSError as e:
    print(repr(e), e.filename)
try:
    os.execve('/nowhere', ['x'], {})
except OSError as e:
    print(repr(e), e.filename)
try:
    os.execvp('nowhere', ['x'])
except OSError as e:
    print(repr(e), e.filename)
os.execv('/bin/sh', 5)

### exec in a child
import os
pid = os.fork()
if not pid:
    os.execv('/bin/echo', ['echo', 'child'])
os.waitpid(pid, 0)
print('parent')

### _exit
import os, sys
print('a', flush=True)
os._exit(9)

### exit of C
import ctypes, os
libc = ctypes.CDLL(None)
os.write(1, b'raw ')
libc.printf(b'buffered')
os.write(2, b'why')
libc.exit(3)

### exit of C in a child
import ctypes, os
libc = ctypes.CDLL(None)
pid = os.fork()
if not pid:
    libc.printf(b'child')
    libc.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

### a pool of processes left open
from concurrent.futures import ProcessPoolExecutor
pool = ProcessPoolExecutor(1)
print(pool.submit(abs, -1).result())

### a manager left open
import multiprocessing
manager = multiprocessing.Manager()
print(manager.list([1]))

### a child that is not waited for
import multiprocessing, time
def work():
    time.sleep(0.2)
    print('child', flush=True)
multiprocessing.get_context('fork').Process(target=work).start()
print('parent', flush=True)

### pickled calls
import os, pickle, warnings
for f in (os.kill, os._exit, os.abort, os.execv, os.close, os.closerange, os.dup2, warnings.warn):
    print(pickle.loads(pickle.dumps(f)) is f)

### subclass of KeyboardInterrupt uncaught
class K(KeyboardInterrupt):
    pass
raise K('k')

### fork with atexit
import atexit, os
atexit.register(lambda: print('bye', flush=True))
pid = os.fork()
if pid:
    os.waitpid(pid, 0)

### alarm
import signal, time
def h(*a):
    raise TimeoutError('late')
signal.signal(signal.SIGALRM, h)
signal.setitimer(signal.ITIMER_REAL, 0.05)
time.sleep(5)

### alarm caught
import signal, time
def h(*a):
    raise TimeoutError('late')
signal.signal(signal.SIGALRM, h)
signal.setitimer(signal.ITIMER_REAL, 0.05)
try:
    time.sleep(5)
except TimeoutError as e:
    print(e)

### alarm in asyncio.run
import asyncio, signal
def h(*a):
    raise SystemExit(4)
signal.signal(signal.SIGALRM, h)
signal.setitimer(signal.ITIMER_REAL, 0.05)
asyncio.run(asyncio.sleep(5))

### handler in the loop
import asyncio, os, signal
async def f():
    done = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, done.set)
    os.kill(os.getpid(), signal.SIGUSR1)
    await done.wait()
    print('got it')
asyncio.run(f())

### handlers told
import signal
def h(*a):
    pass
print(signal.getsignal(signal.SIGINT))
print(signal.signal(signal.SIGTERM, h), signal.getsignal(signal.SIGTERM) is h)
print(signal.signal(signal.SIGTERM, signal.SIG_IGN) is h, signal.getsignal(signal.SIGTERM))
print(signal.signal(signal.SIGINT, signal.SIG_DFL) is signal.default_int_handler)

### signal to itself
import os, signal
signal.signal(signal.SIGUSR1, lambda n, f: print('signal', n, f.f_lineno))
os.kill(os.getpid(), signal.SIGUSR1)
print('on')

### SIGINT to itself
import os, signal
os.kill(os.getpid(), signal.SIGINT)
print('no')

### SIGINT caught
import os, signal, time
try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(1)
except KeyboardInterrupt:
    print('caught')

### raise_signal
import signal
signal.raise_signal(signal.SIGINT)

### wrong signals
import signal
for args in ((0, print), (signal.SIGKILL, print), (signal.SIGTERM, 'x')):
    try:
        signal.signal(*args)
    except (ValueError, OSError, TypeError) as e:
        print(type(e).__name__, e)

### sigwait
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
os.kill(os.getpid(), signal.SIGUSR1)
print(signal.sigwait([signal.SIGUSR1]))

### no running loop
import asyncio
try:
    asyncio.get_running_loop()
except RuntimeError as e:
    print(e)

### get_event_loop closed
import asyncio, warnings
warnings.simplefilter('ignore')
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
loop = asyncio.get_event_loop()
print(loop.run_until_complete(asyncio.sleep(0, 5)))
loop.run_until_complete(loop.shutdown_default_executor())
loop.close()
print(loop.is_closed())

### no loop after asyncio.run
import asyncio
asyncio.run(asyncio.sleep(0))
try:
    asyncio.get_event_loop()
except RuntimeError as e:
    print(e)

### sniffed library
import asyncio
try:
    print(asyncio.current_task())
except RuntimeError as e:
    print(e)

### loop in a thread
import asyncio, threading
def f():
    print(asyncio.run(asyncio.sleep(0, 'thread')))
t = threading.Thread(target=f)
t.start()
t.join()

### unretrieved error
import asyncio
async def bad():
    1 / 0
async def main():
    asyncio.create_task(bad())
    await asyncio.sleep(0.01)
    print('main')
asyncio.run(main())

### debug mode
import asyncio
print(asyncio.run(asyncio.sleep(0, 1), debug=True))

### async generator
import asyncio
async def g():
    try:
        yield 1
    finally:
        print('closed')
async def main():
    async for x in g():
        print(x)
        break
asyncio.run(main())

### mocks
import json, os, time
from unittest import mock
with mock.patch('time.sleep') as sleep, mock.patch('os.getpid', return_value=7):
    time.sleep(100)
    print(os.getpid(), sleep.call_count)
with mock.patch('time.monotonic', return_value=1.0), mock.patch('json.dumps', None):
    print(time.monotonic(), json.dumps)

### settrace
import sys
seen = []
def trace(frame, event, arg):
    seen.append((frame.f_code.co_name, event))
sys.settrace(trace)
def f():
    return 1
f()
sys.settrace(None)
print(seen)

### setprofile
import sys
seen = []
def profile(frame, event, arg):
    seen.append((frame.f_code.co_name, event))
sys.setprofile(profile)
def f():
    return 1
f()
sys.setprofile(None)
print(seen)

### settrace left on
import sys
sys.settrace(lambda *a: None)
print('on')

### recursion limit
import sys
sys.setrecursionlimit(200)
print('low')

### len replaced
import builtins
builtins.len = lambda x: 99
print(len('a'))

### stdin closed
import os
os.close(0)
print('on')

### all but output closed
import sys
sys.stdin.close()
print('on')

### no descriptor left
import resource
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 1024))
files = []
try:
    while True:
        files.append(open('/dev/null'))
except OSError as e:
    print(e)
print('on')

### directory removed
import os
os.makedirs('gone', exist_ok=True)
os.chdir('gone')
os.rmdir('../gone')
try:
    os.getcwd()
except OSError as e:
    print(e)
os.chdir('/')
""")
