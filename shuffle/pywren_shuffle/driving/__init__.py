"""The driver's side of every shuffle: its steps, its blocks, what is done again, and what becomes the output."""
