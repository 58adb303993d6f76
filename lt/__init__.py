"""lt: text-image data sets, and the models of ten papers on them."""

from importlib.metadata import version

__version__ = version("lt-toolkit")
