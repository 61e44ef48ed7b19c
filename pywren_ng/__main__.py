"""`python -m pywren_ng` is `pywren-ng`."""

import sys

from pywren_ng.cli import main

if __name__ == "__main__":
    sys.exit(main())
