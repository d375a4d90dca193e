"""The graph IR: graphs, descriptors, and the organs that build, print, verify and interpret them."""
