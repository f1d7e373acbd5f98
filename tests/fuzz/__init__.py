"""Fuzzing guided by coverage: `targets` has what is tried, `corpus` what was found worth keeping, `__main__` the fuzzer."""
