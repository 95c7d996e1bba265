"""The commands of the `codi` command line, one file each. Heavy imports stand inside the functions."""
