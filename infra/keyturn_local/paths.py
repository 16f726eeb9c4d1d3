"""Paths of the repository, for code that reads or writes files in it. This module uses only the standard library."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
