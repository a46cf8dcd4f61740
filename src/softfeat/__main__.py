"""`python -m softfeat`, the same as the command `softfeat`."""

from softfeat.cli import main

if __name__ == "__main__":
    main(prog_name="softfeat")
