"""`python -m src.sweep_report`, from a checkout."""

from softfeat.commands.sweep_report import main

if __name__ == "__main__":
    main()
