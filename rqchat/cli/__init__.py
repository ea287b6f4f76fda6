"""The command line: options become settings for the engine, and its events go to the screen."""
