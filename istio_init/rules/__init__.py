"""The vocabulary: rules as typed data, their names, and the difference of two rule sets; pure."""
