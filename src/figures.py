"""`python -m src.figures`, from a checkout."""

from softfeat.commands.figures import main

if __name__ == "__main__":
    main()
