"""The node of Torque's scenes."""

from tests.torque.conftest import nest as nest
