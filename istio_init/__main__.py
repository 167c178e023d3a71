"""Entry point of ``python -m istio_init``."""

from istio_init.cli import program

if __name__ == "__main__":
    program()
