"""`python -m bichat` is `bichat`."""

from bichat.cli import main

main()
