"""Steps that do to their process what a target must be able to do without taking the tool along."""

import ctypes
import os
import random
import signal
import sys
import threading
import time

import torch

weight = torch.ones(3, requires_grad=True)


def good():
    return (weight * 2).sum()


def prints():
    print("hello on stdout")
    sys.stdout.buffer.write(b"\xff\xfe\x00 not UTF-8\n")
    print('{"schema": 1, "kind": "step"}')
    sys.stderr.write("\x1b[31mred on stderr\n")
    return good()


def replaces_stdout():
    sys.stdout = None
    return good()


def spawns_threads():
    threading.Thread(target=time.sleep, args=(60,)).start()
    return good()


def changes_state():
    torch.manual_seed(7)
    random.seed(7)
    torch.set_grad_enabled(False)
    torch.set_default_dtype(torch.float64)
    return weight.sum()


def exits():
    sys.exit(0)


def exits_hard():
    os._exit(0)


def kills_itself():
    os.kill(os.getpid(), signal.SIGKILL)


def crashes():
    ctypes.string_at(0)


def raises():
    raise ValueError("</script><b> [link=http://a]y[/link] \x1b[31mred")


def never_returns():
    good().detach()
    (weight.detach() * torch.ones(3, requires_grad=True)).sum().backward()
    print("went back")
    while True:
        time.sleep(0.05)


def ignores_the_time_limit():
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    while True:
        time.sleep(0.05)


def returns_a_number():
    return 3
