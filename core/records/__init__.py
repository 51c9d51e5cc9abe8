"""Records of finished calls, and what becomes of them."""
