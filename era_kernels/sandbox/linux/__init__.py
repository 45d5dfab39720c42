"""The system calls that the server, the zygote and the inits share; standard library only."""
