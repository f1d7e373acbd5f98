"""Hooks that wait for the tracer, and hooks with a mistake in them, beside the installed ones."""

from lab import place

HELD = f"""#!{place.ENVIRONMENT}/bin/python3 -IS
import sys
sys.path.insert(0, {str(place.CLONE)!r})
from tests.crash.held import main
main()
"""
MUTANT = f"""#!{place.ENVIRONMENT}/bin/python3 -I
import sys
sys.path.append({str(place.CLONE)!r})
from tests.crash.mutant import run
run("%s")
"""


def hook(name: str, mutation: str = "") -> str:
    """The name in mom_priv of a hook, or a mutated one, that waits for its tracer."""
    mutated = f"{mutation}.{name}" if mutation else name
    if mutation:
        _script(mutated, MUTANT % mutation)
    _script(f"held.{mutated}", HELD)
    return f"held.{mutated}"


def mutated(name: str, mutation: str) -> str:
    """The name of a mutated hook that does not wait."""
    return hook(name, mutation).removeprefix("held.")


def _script(name: str, text: str) -> None:
    path = place.MOM / "mom_priv" / name
    if not path.exists():
        path.write_text(text)
        path.chmod(0o755)
