"""The slash commands of the chat, a file per family; `table` puts them together."""
