"""OpenPBS: the hook as shipped, in a pbs_python of the lab's."""
