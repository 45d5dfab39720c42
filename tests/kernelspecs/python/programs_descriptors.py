"""Programs that close and replace descriptors; their output is the plain interpreter's."""

from __future__ import annotations

_SHOW = "print(open('out').read(), end='', flush=True)\n"

DESCRIPTORS = {
    "print into a file by dup2": (
        "import os\nsaved = os.dup(1)\nfile = os.open('out', os.O_WRONLY | os.O_CREAT)\n"
        "print('before', flush=True)\nos.dup2(file, 1)\nprint('inside', flush=True)\n"
        "os.system('echo child')\nos.write(1, b'raw\\n')\nos.dup2(saved, 1)\n"
        f"print('after', flush=True)\n{_SHOW}"
    ),
    "stdout stays in a file": (
        "import os, sys\nos.dup2(os.open('out', os.O_WRONLY | os.O_CREAT), 1)\n"
        "print('inside', flush=True)\nsys.stderr.write(open('out').read())\n"
    ),
    "stderr stays in a file": (
        "import os\nos.dup2(os.open('out', os.O_WRONLY | os.O_CREAT), 2)\n"
        "import atexit\natexit.register(lambda: print(open('out').read()))\nraise ValueError('x')\n"
    ),
    "stderr into stdout": (
        "import os, sys\nos.dup2(1, 2)\nsys.stderr.write('to stdout\\n')\n"
        "print('too', flush=True)\nraise ValueError('there')\n"
    ),
    "stdout and stderr swapped": (
        "import os, sys\nsaved = os.dup(1)\nos.dup2(2, 1)\nos.dup2(saved, 2)\n"
        "print('to stderr', flush=True)\nsys.stderr.write('to stdout\\n')\n"
    ),
    "a file takes the number of stdout": (
        "import os\nsaved = os.dup(1)\nos.close(1)\nfile = open('out', 'w')\n"
        "print('inside', flush=True)\nos.dup2(saved, 1)\nprint(file.fileno(), flush=True)\n"
        f"{_SHOW}"
    ),
    "a file by dup2 of C": (
        "import ctypes, os\nlibc = ctypes.CDLL(None)\nsaved = libc.dup(1)\n"
        "libc.dup2(os.open('out', os.O_WRONLY | os.O_CREAT), 1)\nprint('inside', flush=True)\n"
        f"libc.puts(b'of C')\nlibc.fflush(None)\nlibc.dup2(saved, 1)\n{_SHOW}"
    ),
    "a pipe of the program's own": (
        "import os, sys\nsaved = os.dup(1)\nreader, writer = os.pipe()\nos.dup2(writer, 1)\n"
        "print('inside', flush=True)\nos.dup2(saved, 1)\nprint(os.read(reader, 100), flush=True)\n"
    ),
    "all that may be open is closed": (
        "import os\nfor number in range(3, 256):\n    try:\n        os.close(number)\n"
        "    except OSError as error:\n        last = error\nprint(last, flush=True)\n"
        "os.system('echo child')\n"
    ),
    "a range is closed": (
        "import os, subprocess\nos.closerange(3, 1000)\nprint('whole', flush=True)\n"
        "subprocess.run(['echo', 'child'])\n"
    ),
    "one's own in a range": (
        "import os\npair = os.pipe()\nos.closerange(min(pair), max(pair) + 1)\n"
        "for number in pair:\n    try:\n        os.fstat(number)\n"
        "    except OSError as error:\n        print(error)\n"
    ),
    "what is not open is closed": "import os\nos.close(5)\n",
    "no descriptors": (
        "import os\nfor call in (lambda: os.close(-1), lambda: os.close('x'),\n"
        "             lambda: os.close(1.5), lambda: os.close(10 ** 20), lambda: os.close(),\n"
        "             lambda: os.closerange(1), lambda: os.closerange('a', 2),\n"
        "             lambda: os.dup2(1), lambda: os.dup2(-1, 5)):\n"
        "    try:\n        print(call())\n    except Exception as error:\n"
        "        print(type(error), error)\n"
    ),
    "a daemon": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n"
        "    if os.fork():\n        os._exit(0)\n    os.closerange(0, 1000)\n"
        "    for _ in range(3):\n        os.open('/dev/null', os.O_RDWR)\n"
        "    print('nowhere', flush=True)\n    with open('out', 'w') as file:\n"
        "        print(file.fileno(), file=file)\n    os.rename('out', 'done')\n    os._exit(0)\n"
        "os.wait()\nwhile not os.path.exists('done'):\n    time.sleep(0.01)\n"
        "print(open('done').read())\n"
    ),
    "closed in a child": (
        "import os\nif os.fork() == 0:\n    os.closerange(3, 1000)\n"
        "    print(os.open('/dev/null', os.O_RDONLY), flush=True)\n    os._exit(0)\nos.wait()\n"
    ),
}
