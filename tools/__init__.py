"""Programs of the project itself: what reads the sources, and what writes generated pages."""
