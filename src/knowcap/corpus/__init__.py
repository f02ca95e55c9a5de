"""How it is said: sentence templates, rendering with spans, junk and questions (numpy only)."""
