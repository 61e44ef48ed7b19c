"""Groups and joins of Python's objects: pairs of a key and a value, in bounded memory."""
