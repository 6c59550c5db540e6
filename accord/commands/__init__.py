"""What the command line does beyond training: each command a function of files, the same in Python and in the shell."""
