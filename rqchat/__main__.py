"""`python -m rqchat` is `rqchat`."""

from rqchat.cli.start import main

if __name__ == "__main__":
    main()
