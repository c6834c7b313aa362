"""Run the command `tfbn` as ``python -m tfbn``."""

from tfbn.cli.main import main

if __name__ == "__main__":
    main()
