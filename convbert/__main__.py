"""`python -m convbert COMMAND`."""

import sys

from convbert.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
