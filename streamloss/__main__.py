"""`python -m streamloss`: the same command line as `streamloss`."""

from streamloss.cli.main import main

if __name__ == "__main__":
    main()
