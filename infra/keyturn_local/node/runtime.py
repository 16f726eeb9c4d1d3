"""The container runtime: containerd and runc, with a network that gives each pod an address and a route to the host."""

import json
import subprocess
from pathlib import Path
from typing import Any

from keyturn_local.node import images, network
from keyturn_local.node.programs import Programs
from keyturn_local.processes.program import Program, Stoppable

HOME = Path("/run/keyturn-node")  # this folder is in memory, and is gone when the enclosure ends
SOCKET = HOME / "containerd.sock"
NETWORK: dict[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "pods",
    "plugins": [
        {
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": network.PODS}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(HOME / "addresses"),
            },
        }
    ],
}


class Runtime(Stoppable):
    """A running containerd. Its containers end with the enclosure."""

    def __init__(self, directory: Path, programs: Programs) -> None:
        self._ctr: list[str | Path] = [programs.containerd / "ctr", f"--address={SOCKET}", "--namespace=k8s.io"]
        HOME.mkdir(parents=True, exist_ok=True)
        (HOME / "cni").mkdir(exist_ok=True)
        (HOME / "cni" / "pods.conflist").write_text(json.dumps(NETWORK))
        config = HOME / "containerd.toml"
        config.write_text(_config(programs))
        command: list[str | Path] = [programs.containerd / "containerd", f"--config={config}"]
        self._program = Program("containerd", command, directory, programs.environment())
        self._program.wait_for(self._answers, 30)

    def add(self, archive: Path) -> None:
        """Import an image from an archive in the format of `docker save`."""
        self._images("import", archive)

    def tag(self, image: str, name: str) -> None:
        """Give an image a second name. Pods can then use it as if it had been pulled from a registry under this
        name."""
        self._images("tag", "--force", image, name)

    def stop(self) -> None:
        """Stop containerd."""
        self._program.stop()

    def _images(self, *command: str | Path) -> None:
        result = subprocess.run([*self._ctr, "images", *command], capture_output=True, text=True, timeout=120)
        if result.returncode:
            raise RuntimeError(f"containerd fails: ctr images {' '.join(map(str, command))}: {result.stderr.strip()}")

    def _answers(self) -> bool:
        return not subprocess.run([*self._ctr, "version"], capture_output=True).returncode


def _config(programs: Programs) -> str:
    # Without restrict_oom_score_adj, no sandbox would start on a machine without CAP_SYS_RESOURCE.
    return f"""
version = 3
root = "{HOME}/containerd"
state = "{HOME}/containerd-state"
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{images.PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{programs.cni}"]
conf_dir = "{HOME}/cni"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{programs.runc}"
"""
