"""Text that iptables printed, as rules."""
