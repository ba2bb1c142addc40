"""`python -m bfo_diag`: the command of this very environment."""

from bfo_diag.cli.app import main

if __name__ == "__main__":
    main()
