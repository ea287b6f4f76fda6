"""All that a person sees: consoles, streaming, tables, the line editor. No torch, no typer."""
