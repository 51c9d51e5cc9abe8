"""The configuration: TOML files, their tables, and the policy of one call."""
