"""`python -m dia_hf_command`, the same as `dia-hf`."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
