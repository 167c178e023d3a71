"""What reads a network namespace for its operator and changes nothing."""
