"""Records of finished calls, and the bus that delivers them to observers."""
