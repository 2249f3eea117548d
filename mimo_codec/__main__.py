"""`python -m mimo_codec` is the command line `mimo-codec`."""

from mimo_codec.cli.start import main

if __name__ == "__main__":
    main()
