"""`python -m src.segment`, from a checkout."""

from softfeat.commands.segment import main

if __name__ == "__main__":
    main()
