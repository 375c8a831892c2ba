"""`python -m segweave` is `segweave`."""

import sys

from segweave.cli import main

if __name__ == "__main__":
    sys.exit(main())
