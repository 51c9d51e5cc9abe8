"""One package per framework, all of one shape; importing one never imports its framework."""
