"""The phases of a shuffle, in a worker: a sample, splits into blocks, blocks into coarser blocks, blocks into parts."""
