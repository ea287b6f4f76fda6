"""The pocket model: its files, the world it was trained on, its training and its evaluation."""
