"""The cgroup of one call, the tree of cgroups of a run, and processes without a cgroup."""
