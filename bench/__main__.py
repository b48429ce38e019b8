"""`python -m bench` is the command `tokenwire`."""

from bench.cli import main

main()
