"""What the benchmarks share.

Only ratios within one run are worth anything, so everything compared runs in the same process, in
turns, in random order.

- `sampling`: turns, and what is kept of them;
- `machine`: where it was measured.
"""
