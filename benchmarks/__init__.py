"""What agentcgroup costs, measured against the same work without it."""
