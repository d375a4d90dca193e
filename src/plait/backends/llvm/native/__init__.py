"""Native code: loop-IR kernels and plans become machine code through LLVM, inside the process.

target (which machine), vector (SIMD values), mathfns (functions of our own), emit* (kernels), jit
(compile and link), pool (worker threads), blas (matrix products), entry (one native call per
plan), status (failed checks).
"""
