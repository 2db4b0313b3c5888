"""`python -m sentinode`: the command line, where no script is on the path."""

from sentinode.cli import main

if __name__ == "__main__":
    main()
