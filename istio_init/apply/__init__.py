"""Everything that reads or changes the kernel."""
