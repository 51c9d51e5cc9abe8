"""One table of behaviours, run for every framework and path.

`test_conformance` is the table: a row is a test, a column is a `Driver`. A driver is all that a new
adapter has to write to be held to the same.
"""
