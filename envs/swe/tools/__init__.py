"""The agent's tools: a shell, a file editor, a search, and the end."""
