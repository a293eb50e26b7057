"""`python -m dia_hf.cli`, as `accelerate launch -m dia_hf.cli` needs it."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
