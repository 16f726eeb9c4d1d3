"""Runs a command where a node can be at home: in mount, network and process namespaces that end with it.

``python -m keyturn_local.node.enclosure COMMAND...``: whatever the command makes (processes, mounts, interfaces, rules
of iptables, files under /run and /var) is gone when it ends, and also when this process is killed with -9: then the
kernel kills the first process of the namespace, and with it all others. There is no way to the outside from in there.

The process that is called stays outside (it waits, passes signals on, sweeps the cgroups); its child is process 1
inside, which adopts whom nobody waits for, and starts the command.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from keyturn_local.node import cgroups, network

MARK = "ENCLOSURE"  # the environment variable that says one is inside: its value is the name of the cgroup

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x08000000, 0x20000000, 0x40000000  # linux/sched.h
PR_SET_PDEATHSIG = 1  # linux/prctl.h
SI_KERNEL = 0x80  # asm-generic/siginfo.h
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # they are outside

# / is private, or what is mounted here would appear outside. What programs write under /run and /var stays in memory.
SET_UP = (
    "mount --make-rprivate /",
    "mount -t proc proc /proc",
    "mount -t tmpfs -o mode=755 tmpfs /run",
    "mkdir /run/var /run/var-work /run/lock",
    "mount -t overlay -o lowerdir=/var,upperdir=/run/var,workdir=/run/var-work overlay /var",
    "ip link set lo up",
    f"ip address add {network.HOST}/32 dev lo",
    # kube-proxy puts a pod's address in place of a Service's only where there is a way to it at all.
    f"ip route add {network.SERVICES} dev lo src {network.HOST}",
)


class EnclosureError(RuntimeError):
    """What belongs into an enclosure was to run outside, or the other way round."""


def cgroup() -> str:
    """The name of the cgroup for pods. Raises EnclosureError outside of an enclosure."""
    if MARK not in os.environ:
        raise EnclosureError(f"a node only runs in an enclosure: python -m {__spec__.name} COMMAND")
    return os.environ[MARK]


def run(command: Sequence[str]) -> int:
    """Run a command in an enclosure; return its exit status, or 128 + the signal that ended it."""
    if MARK in os.environ:
        raise EnclosureError("an enclosure in an enclosure would sweep the cgroups of the one around it")
    cgroups.sweep_orphans()
    signal.pthread_sigmask(signal.SIG_BLOCK, [*PASSED_ON, signal.SIGCHLD])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"no namespaces of our own: {os.strerror(ctypes.get_errno())}")
    there, here = os.pipe()
    name = cgroups.name_of(os.getpid())
    first = os.fork()
    if not first:
        os.close(here)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if not os.read(there, 1):  # whoever started us was gone before the line above took effect
            os._exit(1)
        _first_process(command, name)
    os.write(here, b"x")
    try:
        return _wait(first)
    finally:
        cgroups.sweep(name)


def _first_process(command: Sequence[str], name: str) -> NoReturn:
    try:
        for line in SET_UP:
            subprocess.run(line.split(), check=True)
        _ask_the_nodes_dns()
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        started = os.fork()
        if not started:
            _become(command, name)
        status = _wait(started)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"enclosure: {error}", file=sys.stderr, flush=True)
        status = 126
    os._exit(status)


def _ask_the_nodes_dns() -> None:
    """What runs in here beside the pods knows Services by the same names; it may be a link into what was /run."""
    text = f"nameserver {network.HOST}\nsearch {network.DOMAIN}\n"
    file = Path("/etc/resolv.conf").resolve()
    if file.exists():
        here = Path("/run/resolv.conf")
        here.write_text(text)
        subprocess.run(["mount", "--bind", here, file], check=True)  # noqa: S607 - the machine's own
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _become(command: Sequence[str], name: str) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [*PASSED_ON, signal.SIGCHLD])
    for variable in [each for each in os.environ if each.lower() in PROXIES]:
        del os.environ[variable]
    os.environ[MARK] = name
    try:
        os.execvp(command[0], list(command))  # noqa: S606 - no shell is meant
    except OSError as error:
        print(f"enclosure: {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


def _wait(child: int) -> int:
    """Wait for one child, whoever else may end; pass signals on to it."""
    while True:
        received = signal.sigwaitinfo([*PASSED_ON, signal.SIGCHLD])
        if received.si_signo != signal.SIGCHLD:
            if received.si_code != SI_KERNEL:  # else it is Ctrl-C, which the terminal tells to all of us
                os.kill(child, received.si_signo)
            continue
        while True:
            try:
                ended, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return 1
            if ended == child:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
            if not ended:
                break


if __name__ == "__main__":
    if not sys.argv[1:]:
        sys.exit(f"usage: python -m {__spec__.name} COMMAND [ARGUMENT]...")
    try:
        sys.exit(run(sys.argv[1:]))
    except (EnclosureError, OSError) as error:
        sys.exit(f"enclosure: {error}")
