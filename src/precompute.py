"""`python -m src.precompute`, from a checkout."""

from softfeat.commands.precompute import main

if __name__ == "__main__":
    main()
