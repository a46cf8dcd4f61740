"""`python -m src.dashboard`, from a checkout."""

from softfeat.commands.dashboard import main

if __name__ == "__main__":
    main()
