"""`python -m src.export`, from a checkout."""

from softfeat.commands.export import main

if __name__ == "__main__":
    main()
