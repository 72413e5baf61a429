"""`python -m steadyflow` is the command `steadyflow`."""

import sys

from steadyflow.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
