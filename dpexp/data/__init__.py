"""Data sets: images by index, normalised with public constants, split the same way every time.

`splits.load` is the way in. `public` says what is known about a set without opening it.
"""
