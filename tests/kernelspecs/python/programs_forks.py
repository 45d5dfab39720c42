"""Programs that fork, whose output is what the plain interpreter prints."""

from __future__ import annotations

_WAIT = "else:\n    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)\n"

FORKS = {
    "fork beside a pool": (
        "import os, time\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "pool = ThreadPoolExecutor(1)\npool.submit(time.sleep, 0.5)\n"
        f"if os.fork() == 0:\n    print('child')\n{_WAIT}"
    ),
    "fork beside a thread": (
        "import os, threading, time\nthreading.Thread(target=time.sleep, args=(0.5,)).start()\n"
        f"if os.fork() == 0:\n    print('child')\n{_WAIT}"
    ),
    "fork beside a thread, with half of threading": (
        "import builtins, os, threading, time\n"
        "threading.Thread(target=time.sleep, args=(0.5,)).start()\nkept = list\n"
        "del builtins.list\nos.dup2(os.open('/dev/null', os.O_WRONLY), 2)\n"
        "if os.fork() == 0:\n    print('child')\n"
        "else:\n    builtins.list = kept\n    print(os.waitstatus_to_exitcode(os.wait()[1]))\n"
    ),
    "fork beside a process": (
        "import multiprocessing, os, time\n"
        "multiprocessing.get_context('fork').Process(target=time.sleep, args=(0.5,)).start()\n"
        "if os.fork() == 0:\n    os.dup2(os.open('/dev/null', os.O_WRONLY), 2)\n"
        "    print('child')\n"
        "else:\n    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)\n"
    ),
    "threads of a fork": (
        "import os, threading, time\ndef work():\n    time.sleep(0.2)\n    print('thread')\n"
        "if os.fork() == 0:\n    threading.Thread(target=work).start()\n    print('child')\n"
        f"{_WAIT}"
    ),
    "fork in a thread": (
        "import os, threading\ndef work():\n    if os.fork() == 0:\n        raise ValueError\n"
        "    print(os.wait()[1])\n"
        "thread = threading.Thread(target=work)\nthread.start(); thread.join()\n"
    ),
    "fork in a fork": (
        "import os\nif os.fork() == 0:\n    if os.fork() == 0:\n        1 / 0\n"
        f"    print(os.wait()[1])\n    raise SystemExit(5)\n{_WAIT}"
    ),
    "hooks of forks": (
        "import os\nos.register_at_fork(before=lambda: print('before', flush=True),\n"
        "    after_in_child=lambda: print('in child', flush=True),\n"
        "    after_in_parent=lambda: (os.wait(), print('in parent', flush=True)))\n"
        "if os.fork() == 0:\n    print('child', flush=True)\n"
    ),
    "hooks of forks that fail": (
        "import os\ndef hook():\n    1 / 0\nos.register_at_fork(after_in_child=hook)\n"
        "if os.fork() == 0:\n    print('child', flush=True)\n"
        "else:\n    os.wait()\n"
    ),
    "hooks of the library that fail at a fork": (
        "import builtins, os\nos.dup2(os.open('/dev/null', os.O_WRONLY), 2)\n"
        "builtins.isinstance = None\nif os.fork() == 0:\n    print('child', flush=True)\n"
        "else:\n    print(os.wait()[1])\n"
    ),
    "destructors of a fork": (
        "import os\nclass D:\n    def __del__(self):\n        print('gone', flush=True)\nd = D()\n"
        f"if os.fork() == 0:\n    print('child', flush=True)\n{_WAIT}"
    ),
    "subprocess with a function before exec": (
        "import subprocess\ndef hook():\n    print('before', flush=True)\n"
        "subprocess.run(['echo', 'after'], preexec_fn=hook)\n"
    ),
}
