"""Every syntax that rules are written in and read from; pure."""
