package build

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const maxBuilt = 8 // programs that are kept

// builtFile returns the file where a program is kept that nothing but its source and its place have a say in.
func (p *Program) builtFile() string {
	digest := sha256.New()
	for _, part := range []string{p.Name, p.Dir, string(p.Source)} {
		digest.Write(binaryLength(part))
		digest.Write([]byte(part))
	}
	return filepath.Join(p.Built, hex.EncodeToString(digest.Sum(nil)), "main") // as it calls itself
}

func binaryLength(part string) []byte {
	size := len(part)
	return []byte{byte(size >> 24), byte(size >> 16), byte(size >> 8), byte(size)}
}

// reuse reports whether the program was built before, and marks it as the newest.
func (p *Program) reuse() bool {
	file := p.builtFile()
	now := time.Now()
	if os.Chtimes(filepath.Dir(file), now, now) != nil {
		return false
	}
	p.exe = file
	return true
}

// keep keeps the built program for the next time; the oldest make room.
func (p *Program) keep() {
	file := p.builtFile()
	if os.MkdirAll(filepath.Dir(file), 0o700) != nil || os.Rename(p.exe, file) != nil {
		return
	}
	p.exe = file
	type built struct {
		name string
		at   time.Time
	}
	var all []built
	entries, _ := os.ReadDir(p.Built)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil {
			all = append(all, built{entry.Name(), info.ModTime()})
		}
	}
	slices.SortFunc(all, func(a, b built) int { return cmp.Compare(b.at.UnixNano(), a.at.UnixNano()) })
	for _, old := range all[min(len(all), maxBuilt):] {
		os.RemoveAll(filepath.Join(p.Built, old.name))
	}
}
