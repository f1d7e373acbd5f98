"""Torque: every row of its tables, played by the lab's mom; docs/torque.md has the rows."""
