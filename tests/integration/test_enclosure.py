"""The enclosure of a real node: everything that is created in it disappears with it, no matter how the enclosure
ends."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from keyturn_local.node import cgroups
from keyturn_local.node.preflight import preflight
from keyturn_local.processes.environment import IMPORT_ROOTS
from support.wait import eventually

ENCLOSURE = [sys.executable, "-m", "keyturn_local.node.enclosure"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": IMPORT_ROOTS}
NAMESPACES = ("ipc", "mnt", "net", "pid")

pytestmark = pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="it takes root on Linux")


@pytest.fixture(scope="module", autouse=True)
def alone() -> None:
    """Keep these tests in one process, because a test that compares states of the machine would see the other tests."""


@contextmanager
def enclosed(*command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command in an enclosure, and wait until it prints "ready".

    The command starts with the default handling of signals. nohup and background jobs ignore some signals, and a shell
    cannot trap a signal that was ignored when the shell started.
    """
    default = ["env", "--default-signal=INT,HUP,TERM"]
    running = subprocess.Popen([*default, *ENCLOSURE, *command], env=ENVIRONMENT, stdout=subprocess.PIPE)
    try:
        assert running.stdout is not None
        with running.stdout:
            assert running.stdout.readline() == b"ready\n"
            yield running
    finally:
        running.kill()
        running.wait()


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*ENCLOSURE, *command], env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


def family(process: int) -> set[int]:
    """Return the ids of a process and of all its descendants."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue  # the process has ended
    found = {process}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def namespaces(processes: set[int]) -> set[str]:
    """Return the namespaces that these processes are in, such as "net:[4026532274]"."""
    found = set()
    for process in processes:
        for kind in NAMESPACES:
            try:
                found.add(os.readlink(f"/proc/{process}/ns/{kind}"))
            except OSError:
                continue  # the process has ended, or is about to
    return found


def everyone() -> set[int]:
    return {int(entry.name) for entry in Path("/proc").glob("[0-9]*")}


def machine() -> dict[str, set[str]]:
    """Return everything that a node could leave behind on this machine where others could see it."""
    return {
        "mounts": set(Path("/proc/mounts").read_text().splitlines()),
        "interfaces": set(os.listdir("/sys/class/net")),
        "routes": set(Path("/proc/net/route").read_text().splitlines()),
        "files": {f"{folder}/{name}" for folder in ("/run", "/var/lib", "/var/log") for name in os.listdir(folder)},
    }


def swept() -> bool:
    """Start an enclosure, which removes the cgroups of dead enclosures. Return whether each cgroup that is left belongs
    to an enclosure that is still running."""
    run("true")
    return not [
        root for root in cgroups.MOUNT.glob(f"*/{cgroups.PREFIX}*") if not Path("/proc", root.name[13:]).exists()
    ]


NODE = """
import pathlib, sys, time
from keyturn_local.kubernetes.control_plane import ControlPlane
from keyturn_local.node import images, network
from keyturn_local.node.node import Node
directory = pathlib.Path(sys.argv[1])
control_plane = ControlPlane.start(directory, host=network.HOST)
node = Node.start(directory, control_plane)
pod = ["--image", images.BUSYBOX, "--image-pull-policy=Never", "--", "sleep", "600"]
control_plane.kubectl("run", "waits", *pod)
control_plane.kubectl("wait", "--for=condition=Ready", "pod/waits", "--timeout=120s")
print("ready", flush=True)
time.sleep(600)
"""


@pytest.mark.long
@pytest.mark.timeout(1800)  # the first run may have to build what a node needs
def test_killed_parent_leaves_nothing_of_a_node(tmp_path: Path) -> None:
    if found := preflight():
        pytest.skip(found)
    before = machine()
    with enclosed(sys.executable, "-c", NODE, str(tmp_path)) as parent:
        made = family(parent.pid)
        inside = namespaces(made) - namespaces({os.getpid()})
        assert len(made) > 20  # control plane, node, DNS and the pod, each with its guard or shim
        # These are the network namespaces of the enclosure and of the pod.
        assert len({each for each in inside if each.startswith("net:")}) == 2
        assert machine() == before
        parent.send_signal(signal.SIGKILL)
        parent.wait()
        eventually(lambda: not inside & namespaces(everyone()), seconds=10)
        assert not {each for each in made if Path("/proc", str(each)).exists()} - {parent.pid}
        assert machine() == before
        assert swept()


def test_background_processes_end_with_the_command() -> None:
    done = run("sh", "-c", "setsid sleep 7654 & mkdir /run/own && mount -t tmpfs none /run/own; echo $!")
    assert done.returncode == 0
    assert done.stdout
    assert not [each for each in everyone() if command_of(each) == b"sleep\x007654\x00"]
    assert "/run/own" not in Path("/proc/mounts").read_text()


def command_of(process: int) -> bytes:
    try:
        return Path("/proc", str(process), "cmdline").read_bytes()
    except OSError:  # the process has ended
        return b""


def test_files_below_run_and_var_stay_inside(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    assert run("sh", "-c", f"touch /run/inside /var/lib/inside {kept} && ls /var/lib/dpkg").returncode == 0
    assert not Path("/run/inside").exists()
    assert not Path("/var/lib/inside").exists()
    assert kept.exists()


def test_enclosure_has_no_interface_but_loopback() -> None:
    done = run("sh", "-c", "ls /sys/class/net >/dev/null; cat /proc/net/dev")
    assert [line.split(":")[0].strip() for line in done.stdout.splitlines()[2:]] == ["lo"]


@pytest.mark.parametrize(("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill $$", 143)])
def test_exit_status_is_that_of_the_command(script: str, status: int) -> None:
    assert run("sh", "-c", script).returncode == status


def test_missing_command_is_named() -> None:
    done = run("no-such-command")
    assert (done.returncode, "no-such-command" in done.stderr) == (127, True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_command(number: signal.Signals) -> None:
    script = f"trap 'exit {40 + number}' {number.name[3:]}; echo ready; while :; do sleep 0.1; done"
    with enclosed("bash", "-c", script) as parent:
        parent.send_signal(number)
        assert parent.wait(10) == 40 + number


def test_ctrl_c_reaches_the_command_once(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to every process of the group. If the enclosure passed the signal on, the command would
    get it twice."""
    told = tmp_path / "told"
    script = (
        "import pathlib, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})\n"
        "print('ready', flush=True)\n"
        "while signal.sigtimedwait({signal.SIGINT}, 1):\n"
        f"    pathlib.Path('{told}').open('a').write('told ')\n"
        "sys.exit(9)\n"
    )
    python = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))"
    terminal = subprocess.Popen(
        [sys.executable, "-c", python, *ENCLOSURE, sys.executable, "-c", script],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert terminal.stdin is not None
    assert terminal.stdout is not None
    with terminal.stdin, terminal.stdout:
        assert terminal.stdout.readline() == b"ready\r\n"
        terminal.stdin.write(b"\x03")
        terminal.stdin.flush()
        assert terminal.wait(10) == 9
    assert told.read_text() == "told "


def test_enclosure_in_an_enclosure_is_refused() -> None:
    done = run(*ENCLOSURE, "true")
    assert done.returncode == 1
    assert "an enclosure in an enclosure" in done.stderr


def test_node_outside_of_an_enclosure_is_refused() -> None:
    code = "from keyturn_local.node import enclosure; enclosure.cgroup()"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True)
    assert "a node only runs in an enclosure" in done.stderr
