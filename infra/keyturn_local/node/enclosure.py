"""The enclosure of a node. It runs one command in new mount, network, IPC and process namespaces. They end with the
command.

``python -m keyturn_local.node.enclosure COMMAND...`` runs a command. When it ends, all processes, mounts, network
interfaces and iptables rules of the enclosure are gone, and so are the changes below /run and /var. This is so even if
the outer process is killed with SIGKILL: the kernel then kills process 1 inside the enclosure, and with it all other
processes inside. The network has no route to the outside.

The outer process waits, forwards signals, and removes the cgroups. Its child is process 1 inside the enclosure. Process
1 starts the command, and reaps orphaned processes.
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

MARK = "ENCLOSURE"  # an environment variable inside the enclosure; its value is the name of the cgroup

CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x08000000, 0x20000000, 0x40000000  # linux/sched.h
PR_SET_PDEATHSIG = 1  # linux/prctl.h
SI_KERNEL = 0x80  # asm-generic/siginfo.h
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)

PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # these are removed, because no proxy can be reached from inside

# The mount / is private, so mounts inside do not appear outside. All writes below /run and /var stay in memory.
SET_UP = (
    "mount --make-rprivate /",
    "mount -t proc proc /proc",
    "mount -t tmpfs -o mode=755 tmpfs /run",
    "mkdir /run/var /run/var-work /run/lock",
    "mount -t overlay -o lowerdir=/var,upperdir=/run/var,workdir=/run/var-work overlay /var",
    "ip link set lo up",
    f"ip address add {network.HOST}/32 dev lo",
    # The rules of kube-proxy see a packet to the address of a Service only if there is a route to this address.
    f"ip route add {network.SERVICES} dev lo src {network.HOST}",
)


class EnclosureError(RuntimeError):
    """A function was called in the wrong place. Some functions work only inside an enclosure (the namespaces of a real
    node), and others only outside."""


def cgroup() -> str:
    """Return the name of the cgroup for the pods. Raises EnclosureError outside of an enclosure."""
    if MARK not in os.environ:
        raise EnclosureError(f"a node only runs in an enclosure: python -m {__spec__.name} COMMAND")
    return os.environ[MARK]


def run(command: Sequence[str]) -> int:
    """Run a command in an enclosure. Return its exit status, or 128 plus the number of the signal that ended it.

    Raises EnclosureError inside an enclosure, and OSError if the kernel refuses to create namespaces.
    """
    if MARK in os.environ:
        raise EnclosureError("an enclosure in an enclosure would sweep the cgroups of the one around it")
    cgroups.sweep_orphans()
    signal.pthread_sigmask(signal.SIG_BLOCK, [*FORWARDED, signal.SIGCHLD])
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS | CLONE_NEWIPC | CLONE_NEWPID | CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), f"no namespaces of our own: {os.strerror(ctypes.get_errno())}")
    reader, writer = os.pipe()
    name = cgroups.name_of(os.getpid())
    first = os.fork()
    if not first:
        os.close(writer)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if not os.read(reader, 1):  # the parent ended before the call of prctl took effect
            os._exit(1)
        _first_process(command, name)
    os.write(writer, b"x")
    try:
        return _wait(first)
    finally:
        cgroups.sweep(name)


def _first_process(command: Sequence[str], name: str) -> NoReturn:
    try:
        for line in SET_UP:
            subprocess.run(line.split(), check=True)
        _use_own_dns()
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        child = os.fork()
        if not child:
            _execute(command, name)
        status = _wait(child)
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"enclosure: {error}", file=sys.stderr, flush=True)
        status = 126
    os._exit(status)


def _use_own_dns() -> None:
    """Use the node's DNS outside of pods, too. /etc/resolv.conf may be a link into /run, which is still empty here."""
    text = f"nameserver {network.HOST}\nsearch {network.DOMAIN}\n"
    file = Path("/etc/resolv.conf").resolve()
    if file.exists():
        own = Path("/run/resolv.conf")
        own.write_text(text)
        subprocess.run(["mount", "--bind", own, file], check=True)  # noqa: S607 - the machine's own mount
    else:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def _execute(command: Sequence[str], name: str) -> NoReturn:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [*FORWARDED, signal.SIGCHLD])
    for variable in [each for each in os.environ if each.lower() in PROXIES]:
        del os.environ[variable]
    os.environ[MARK] = name
    try:
        os.execvp(command[0], list(command))  # noqa: S606 - deliberately without a shell
    except OSError as error:
        print(f"enclosure: {command[0]}: {error.strerror}", file=sys.stderr, flush=True)
        os._exit(127)


def _wait(child: int) -> int:
    """Wait for one child. Return its exit status. Until then, forward signals to the child, and reap all other
    processes."""
    while True:
        received = signal.sigwaitinfo([*FORWARDED, signal.SIGCHLD])
        if received.si_signo != signal.SIGCHLD:
            if received.si_code != SI_KERNEL:  # after Ctrl-C, the terminal has signalled the child, too
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
