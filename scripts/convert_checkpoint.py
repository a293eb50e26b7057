"""Convert a Dia checkpoint of any layout: `python scripts/convert_checkpoint.py SOURCE DEST`, like `dia-hf convert`."""

import sys

from dia_hf.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
