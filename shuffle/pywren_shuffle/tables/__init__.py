"""Groups and joins of tables, by the columns that they have: pyarrow and numpy, many rows at a time."""
