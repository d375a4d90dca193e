"""Speed of plait and its peers, measured side by side. `make bench` runs it."""
