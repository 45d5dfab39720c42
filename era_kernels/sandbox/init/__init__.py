"""The parts of the sandbox that run in the zygote and in each sandbox's init."""
