"""What the benchmarks share.

Only ratios within one run are worth anything, so everything compared runs in the same process, in
turns, in random order.

- `sampling`: turns, and what is kept of them;
- `cells`: a process for each cell of a table;
- `machine`: where it was measured;
- `report`: the tables, the files they are kept in, and the options for both.
"""
