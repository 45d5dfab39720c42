// Package connection tells the kernel what a program shows beside its output.
package connection

import (
	"os"
	"strconv"
	"sync"
	"syscall"
)

var (
	lock sync.Mutex
	once sync.Once
	fd   = -1
)

// Send sends a message, which is JSON, and waits until the kernel has taken it: so it stands in
// order with what is printed. It returns false where there is no kernel.
func Send(text []byte) bool {
	once.Do(open)
	lock.Lock()
	defer lock.Unlock()
	if fd < 0 {
		return false
	}
	size := len(text)
	message := append([]byte{byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)}, text...)
	for len(message) > 0 {
		count, err := syscall.Write(fd, message)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			fd = -1
			return false
		}
		message = message[count:]
	}
	for {
		count, err := syscall.Read(fd, make([]byte, 1))
		if err != syscall.EINTR {
			return err == nil && count == 1
		}
	}
}

func open() {
	if number, err := strconv.Atoi(os.Getenv("ERA_KERNEL_FD")); err == nil {
		syscall.CloseOnExec(number)
		fd = number
	}
}
