"""The suite of CPU kernels: every row beside every peer, each in a process of its own."""
