"""The command line `mimo-codec`: `main` registers the commands, one file each."""
