"""What is true: value lists, people, bioD tables and a user's own tuples (numpy only)."""
