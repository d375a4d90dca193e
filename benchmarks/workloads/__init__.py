"""One file per group of workloads. Each has WORKS: name -> what a system needs for the work."""
