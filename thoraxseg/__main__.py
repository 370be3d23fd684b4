"""`python -m thoraxseg` is the command line."""

from thoraxseg.cli import entry

if __name__ == "__main__":
    entry()
