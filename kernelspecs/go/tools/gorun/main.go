// Gorun builds one piece of Go and becomes the program: same process, same descriptors.
//
//	gorun -std DIR -work DIR -state DIR -built DIR -name NAME FILE
//
// A file with a package clause is a whole program. Anything else is a fragment, which begins with
// what earlier fragments have left in the state. What cannot be built is told to the kernel by the
// descriptor that ERA_KERNEL_FD names, else to stderr.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"era/tools/build"
	"era/tools/fragment"
	"era/tools/kernelfd"
)

func main() {
	// A program does not outlive its kernel. This belongs to a thread, which is to become the program.
	runtime.LockOSThread()
	syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGKILL), 0)
	std := flag.String("std", "", "directory that mkstd has made")
	work := flag.String("work", "", "empty directory for this run")
	state := flag.String("state", "", "directory of what fragments leave for the next")
	built := flag.String("built", "", "directory of whole programs that were built before")
	name := flag.String("name", "cell.go", "what errors call a fragment")
	flag.Parse()
	exe, err := prepare(*std, *work, *state, *built, *name, flag.Arg(0))
	if err == nil {
		err = syscall.Exec(exe, []string{exe}, os.Environ())
	}
	fail(err)
}

func prepare(stdDir, work, state, built, name, file string) (string, error) {
	source, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	std, err := build.OpenStd(stdDir)
	if err != nil {
		return "", err
	}
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	program := &build.Program{Std: std, Source: source, Name: "main.go", Dir: dir, Work: work}
	if fragment.IsWhole(source) {
		program.Built = built
		err := program.Build()
		return program.Exe(), err
	}
	program.Name = name
	prepared, err := fragment.Prepare(program, filepath.Clean(state))
	if err != nil {
		return "", err
	}
	if err := program.Build(); err != nil {
		return "", err
	}
	return program.Exe(), prepared.Write()
}

func fail(err error) {
	var refused *build.Error
	text := fmt.Sprintln(err)
	if errors.As(err, &refused) {
		text = refused.Text
	}
	if !kernelfd.Send("refused", text) {
		fmt.Fprint(os.Stderr, text)
	}
	os.Exit(1)
}
