"""`python -m earwitness`, and a script for launchers that want a file."""

from earwitness.commands.cli import main

if __name__ == "__main__":
    main()
