"""The documentation's site: docs/ as it is, and beside it pages that are made from the code and the examples."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
