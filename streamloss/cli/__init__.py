"""The command line: click and only click; one command, one file; heavy imports wait until a command runs."""
