"""The documentation's site: docs/ as it is, and beside it pages made from the code, from the examples and from this repository's top."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
