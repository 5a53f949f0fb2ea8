"""What can be asked: SQL read models folded from the log. Knows nothing of Ray or HTTP."""
