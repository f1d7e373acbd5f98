"""A job's phases as people count them, and which of them each step of a hook belongs to."""

QUEUE, RUN, EPILOGUE = "queue", "run", "epilogue"
PHASES = (QUEUE, "admission", "image", "disks", "context", "boot", "ready", RUN, EPILOGUE)
"""In their order: queue is the batch system's; all from admission to ready is provisioning."""
BEGIN = "begin"
"""The step before the first one with a name."""
_OF = {
    BEGIN: "admission",
    "admission": "admission",
    "site hook": "admission",
    "images": "image",
    "take": "admission",
    "turn": "admission",
    "addresses": "context",
    "leases": "context",
    "disks": "disks",
    "network filter": "context",
    "meeting": "context",
    "context": "context",
    "start": "boot",
    "export": "boot",
    "boot": "boot",
    "give": "boot",
    "mount": "boot",
    "deliver": "boot",
    "arrival": "ready",
    "login": "ready",
    "ready": "ready",
    "sisters": "ready",
    "first node": "ready",
    RUN: RUN,
    "shutdown": EPILOGUE,
    "clean": EPILOGUE,
    "release": EPILOGUE,
    EPILOGUE: EPILOGUE,
}
STEPS = frozenset(_OF)


def phase_of(step: str) -> str:
    """The phase of a step; one of a newer version counts to boot, which is most of what a start is."""
    return _OF.get(step, "boot")
