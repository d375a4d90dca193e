"""`python -m plait.cli`."""

from plait.cli import main

if __name__ == "__main__":
    main()
