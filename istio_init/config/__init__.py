"""From flags, environment and files to typed settings; pure."""
