"""`python -m bichat` is `bichat`."""

from bichat.cli import main

if __name__ == "__main__":  # processes that we start to work side by side import this again
    main()
