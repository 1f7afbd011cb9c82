"""Train one cell of the grid, or with ``-m`` several, and compare them: ``python train.py --help``."""

from pathlib import Path

from seggrid.entry import main

if __name__ == "__main__":
    main("train", Path(__file__).resolve().parent / "conf")
