"""The slash commands of the chat, a file for each group of commands; `table` lists them all."""
