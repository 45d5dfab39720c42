module era/tools

go 1.24
