"""The graph IR: graphs, descriptors, and what builds, prints, verifies and interprets them."""
