"""The loop IR: terms, kernels, and their builder, printer, verifier and interpreter."""
