"""Code that all benchmarks share.

Only ratios within one run are comparable. So all variants of a comparison run in the same process,
take turns, and take them in random order.

- `sampling`: the turns, and the statistics of their times;
- `cells`: a process for each cell of a table;
- `machine`: facts about the machine that measures;
- `report`: the tables, their files, and the command line options for both.
"""
