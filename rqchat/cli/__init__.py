"""The commands: typed options in, settings to the engine, events to the screen."""
