"""`server` runs in the server's process, `init` in the zygote and the inits, `linux` in both."""
