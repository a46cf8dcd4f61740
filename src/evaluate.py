"""`python -m src.evaluate`, from a checkout."""

from softfeat.commands.evaluate import main

if __name__ == "__main__":
    main()
