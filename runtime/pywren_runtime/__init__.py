"""The half of pywren_ng that runs in a worker."""

__version__ = "0.1.0"
