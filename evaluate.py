"""Measure a trained run again: ``python evaluate.py run=<folder of the run>``."""

from pathlib import Path

from seggrid.entry import main

if __name__ == "__main__":
    main("evaluate", Path(__file__).resolve().parent / "conf")
