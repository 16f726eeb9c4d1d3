"""Where the repository is, for everything that reads or writes its files. Standard library alone."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
