"""python -m tests.fuzz TARGET [options of libFuzzer] [directories]: until something is found, or `-max_total_time=SECONDS`.

What reaches new code goes into the first directory; all of `corpus/TARGET` is where it begins. What fails lies in the working
directory afterwards, `crash-DIGEST`, and is run again by naming it.
"""

import sys
from pathlib import Path

import atheris

CORPUS = Path(__file__).parent / "corpus"
_MEASURED = ["vmbatch.format", "vmbatch.journal", "vmbatch.registry"]


def planted(data: bytes) -> None:
    """A mistake that chance does not find: behind eight bytes, one after the other."""
    from vmbatch.format import FormatError, qcow2

    try:
        qcow2.parse(lambda offset, length: data[offset : offset + length], 1 << 20)
    except FormatError as error:
        if "version" in error.what:
            raise IndexError("planted") from None


def main() -> None:
    """Never returns."""
    with atheris.instrument_imports(include=_MEASURED):
        from .targets import TARGETS
    name, *options = sys.argv[1:]
    seeds = [] if name == "planted" else [str(CORPUS / name)]
    atheris.Setup([sys.argv[0], *options, *seeds], (TARGETS | {"planted": planted})[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
