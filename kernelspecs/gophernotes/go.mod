module era-kernels/gophernotes

go 1.16

require github.com/gopherdata/gophernotes v0.7.5
