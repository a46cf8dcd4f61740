"""`python -m src.train`, from a checkout."""

from softfeat.commands.train import main

if __name__ == "__main__":
    main()
