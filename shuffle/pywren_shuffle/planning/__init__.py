"""How a shuffle is divided, how long it will take and what it costs: pure numbers, before anything is read."""
