"""`python -m dia_hf.cli`, without what `dia-hf` does about Ctrl-C while it imports."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
