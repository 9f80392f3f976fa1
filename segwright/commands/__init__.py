"""The verbs of the command line: each imports what it needs, calls one function and prints."""
