"""The life of a call: what it is, how it is entered and left, and the session that holds it."""
