"""Where bytes lie and how they get here: inputs, ranges of blocks, requests in flight, spares of what may be lost."""
