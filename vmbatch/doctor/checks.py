"""All checks, in the order in which they are told: adding one is a function and its line. What others need comes first."""

from . import batch, delays, hypervisor, images, networks, node, room, settings, share, storage, tools

CHECKS = (
    *hypervisor.CHECKS, *settings.CHECKS, *tools.CHECKS, *networks.CHECKS, *share.CHECKS, *storage.CHECKS, *images.CHECKS,
    *room.CHECKS, *delays.CHECKS, *batch.CHECKS, *node.CHECKS,
)
READ = {"configuration": "whether the settings can be read, and fit each other",
        "templates": "whether each template of a queue can be read"}
"""What is found beforehand, when settings and templates are read: by name, as the checks."""
