"""Run other projects' own test suites with and without agentcgroup, and compare each test.

The frameworks' suites show that hooked tools behave as before; the suites of libraries that start
processes show the same of code that runs inside a call. Each suite is one row of `suites.SUITES`.
The tests come from the project's source distribution, run in a virtualenv in the cache, and are
compared test by test: a suite may have failures of its own, but none may be ours.
"""
