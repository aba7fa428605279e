"""What the other packages need of the machine: array types, files, threads, native libraries. Knows nothing of chains."""
