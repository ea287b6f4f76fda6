"""rqchat: a terminal assistant that fits Gemma 4 and the longest context on your GPU."""

__version__ = "0.2.0"
