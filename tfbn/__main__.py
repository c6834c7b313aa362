"""``python -m tfbn`` is the command `tfbn`."""

from tfbn.cli.main import main

if __name__ == "__main__":
    main()
