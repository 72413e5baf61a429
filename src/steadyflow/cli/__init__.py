"""The command line: one file a verb, each a function whose signature is its options.

A verb's parameters before the ``*`` are its arguments, those after it are its options; their help
is the function's own docstring. It says what it did in words and returns its answer as plain
values, which ``--json`` prints. Nothing here is imported by the rest of the package, and nothing
here imports torch before a verb needs it.
"""
