"""``python -m pgconductor``."""

from pgconductor.cli import main

if __name__ == "__main__":
    main()
