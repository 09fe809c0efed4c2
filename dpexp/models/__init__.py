"""Networks by name: built, given weights, made trainable per sample, and described.

`build.build` is the way in.
"""
