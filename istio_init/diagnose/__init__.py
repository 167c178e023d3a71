"""What the operator's tools conclude from rules; pure."""
