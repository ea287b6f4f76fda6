"""`python -m rqchat` is `rqchat`."""

from rqchat.cli.app import main

if __name__ == "__main__":
    main()
