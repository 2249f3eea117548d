"""What every room needs; imports nothing of ours: errors, files, arrays, checks of values, lazy names, processes."""
