"""The commands, one a file: each is a Python function and what `segweave COMMAND` runs."""
