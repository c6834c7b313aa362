"""``python -m tfbn`` is the command `tfbn`."""

from tfbn.cli import main

main()
