"""Entry point of ``python -m istio_init``."""

import sys

from istio_init.cli import main

if __name__ == "__main__":
    sys.exit(main())
