"""seggrid: the same segmentation cell in three libraries, trained, measured and compared."""

__version__ = "0.1.0"
