"""What talks to Linux and knows no plan."""
