"""`python -m codi` is the `codi` command."""

from codi.cli import main

main()
